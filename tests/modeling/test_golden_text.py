"""Models of texts against numbers of Hugging Face's code, through the converter."""

import numpy as np
import paddle
import pytest

from passl_sot.interop import convert_state_dict
from passl_sot.modeling.classifier import Classifier
from tests.modeling.test_golden import DTYPES, check_output, golden, suffix

HEADS = {"bert_tiny": {"name": "PoolerHead"}, "gpt_tiny": {"name": "LinearHead"}}
HEADS["roberta_tiny"] = {"name": "PoolerHead", "input_dropout": 0.1}
NAMES = {"bert_tiny": "BERT", "roberta_tiny": "RoBERTa", "gpt_tiny": "GPT"}
SIZE = {"vocab_size": 100, "max_positions": 32, "embed_dim": 64, "depth": 2, "num_heads": 4}
PARTS = ("query", "key", "value")
_NOT_THERE = {"head.fc.weight", "head.fc.bias"}  # in files of models without a task


def loaded(name: str, dtype: str) -> tuple[Classifier, dict[str, str]]:
    """The model, and where each entry of the file went."""
    head = {"num_classes": 3, "in_channels": 64, **HEADS[name]}
    model = Classifier({"name": NAMES[name], **SIZE}, head).to(dtype=dtype)
    model.eval()
    state = golden.state_dict(golden.load(name)[0]["entries"])
    converted, report = convert_state_dict(model, state)
    assert report.ok, str(report)
    new = set(model.state_dict()) - set(converted)
    assert new == (set() if name == "roberta_tiny" else _NOT_THERE)
    model.set_state_dict({**model.state_dict(), **converted})
    targets = {source: source for source in state}
    for sources, target in report.renamed:
        targets |= dict.fromkeys(sources.split(" + "), target)
    return model, targets


def gradient(model: Classifier, name: str, target: str) -> np.ndarray:
    """Of one entry of the file, which may be a third of a joint projection."""
    found = dict(model.named_parameters())[target].grad.numpy()
    for i, part in enumerate(PARTS):
        if f".{part}." in name:
            return np.split(found, 3, axis=-1)[i]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_whole_model(name, dtype):
    """Hidden states of all positions, padded ones too, what the head makes of them, loss, and gradients."""
    facts, arrays = golden.load(name)
    model, targets = loaded(name, dtype)
    backbone = model.backbone
    inputs = [paddle.to_tensor(arrays[key]) for key in backbone.input_names]
    end = suffix(dtype)
    hidden = backbone.hidden_states(*inputs)
    expected = arrays["last_hidden_state" + end]
    check_output(hidden[-1], expected, dtype)
    for i, state in enumerate(hidden):
        official = facts.get("intermediates", {}).get(
            ("h." if name == "gpt_tiny" else "encoder.layer.") + str(i)
        )
        if official:
            assert abs(np.linalg.norm(state.numpy().astype("float64")) / official["l2"] - 1) < 1e-6
    # What heads get is the same, with the class token first.
    tokens, mask = backbone(*inputs)
    for i, length in enumerate(arrays["attention_mask"].sum(axis=1)):
        order = np.roll(np.arange(length), 1) if name == "gpt_tiny" else np.arange(length)
        check_output(tokens[i, :length], expected[i][order], dtype)
        assert mask[i].sum() == length
    upstream = paddle.to_tensor(golden.array([2, 16, 64], 11)).astype(dtype)
    loss = (hidden[-1] * upstream).sum() / hidden[-1].size ** 0.5
    if name == "bert_tiny":
        pooled = model.head.pre_logits(hidden[-1])
        check_output(pooled, arrays["pooler_output" + end], dtype)
        loss = loss + pooled.sum() / pooled.size**0.5
    if name == "roberta_tiny":
        logits = model(*inputs)
        check_output(logits, arrays["logits" + end], dtype)
        loss = loss + model.head(hidden[-1]).sum() / logits.size**0.5
    assert abs(float(loss) - facts["loss_f64"]) < (1e-5 if dtype == "float32" else 1e-8)
    loss.backward()
    tolerance = 1e-4 if dtype == "float32" else 1e-8
    for official, norm in zip(facts["grad_names"], arrays["grad_norms" + end], strict=True):
        got = np.linalg.norm(gradient(model, official, targets[official]).astype("float64"))
        # A shift of all keys leaves a softmax unchanged: the gradients of their biases are noise.
        assert abs(got - norm) <= tolerance * norm + 1e-6 * (".key.bias" in official), (official, got, norm)
