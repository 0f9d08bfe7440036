"""Backbones over texts: padding, positions, the class token, what they refuse and how they start."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.stats import count_parameters, model_stats

TINY = {"vocab_size": 40, "max_positions": 20, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
TINY |= {"drop_rate": 0.0, "attn_drop_rate": 0.0}
NAMES = ["BERT", "RoBERTa", "GPT"]
every_name = pytest.mark.parametrize("name", NAMES)


def build(name: str, seed: int = 0, **more):
    paddle.seed(seed)
    return build_backbone({"name": name, **TINY, **more})


def scattered(model) -> None:
    """Weights so large that tables, norms and biases show."""
    with paddle.no_grad():
        for parameter in model.parameters():
            parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))


def text(model, length: int, batch: int = 1, seed: int = 0) -> list[paddle.Tensor]:
    """Of one length."""
    generator = np.random.default_rng(seed)
    shape = (batch, length)
    found = [generator.integers(2, model.vocab_size, shape), np.ones(shape, "int64")]
    if model.num_types:
        found.append(generator.integers(0, model.num_types, shape))
    return [paddle.to_tensor(array) for array in found]


def padded(model, parts: list[list[paddle.Tensor]]) -> list[paddle.Tensor]:
    longest = max(part[0].shape[1] for part in parts)
    batch = []
    for i, values in enumerate(zip(*parts, strict=True)):
        padding = (model.pad_id or 0) if i == 0 else 0
        batch.append(paddle.concat([F.pad(v, [0, longest - v.shape[1]], value=padding) for v in values]))
    return batch


def places(model, length: int) -> list[int]:
    """Where `forward` takes the tokens of a text from."""
    return [length - 1, *range(length - 1)] if model.causal else list(range(length))


@every_name
@pytest.mark.parametrize("mode", ["packed", "padded", "computed"])
def test_a_batch_with_padding_equals_each_text_alone(name, mode, monkeypatch):
    model = build(name)
    scattered(model)
    if mode == "padded":
        module = type(model).__mro__[1].__module__
        monkeypatch.setattr(f"{module}._packs", lambda input_ids: False)
    model.compute_padding = mode == "computed"
    lengths = [5, 9, 1, 5, 7]
    parts = [text(model, length, seed=i) for i, length in enumerate(lengths)]
    batch = padded(model, parts)
    upstream = paddle.randn([len(lengths), 9, 24])

    def learned() -> dict[str, np.ndarray]:
        found = {key: p.grad.numpy() for key, p in model.named_parameters()}
        model.clear_gradients()
        return found

    x, mask = model(*batch)
    assert mask.dtype == paddle.bool and mask.sum(axis=1).tolist() == lengths
    # No gradient comes from padding, whatever is behind it.
    (x * upstream * mask.unsqueeze(-1).astype("float32")).sum().backward()
    together = learned()
    hidden = model.hidden_states(*batch)[-1]
    for i, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        alone, own_mask = model(*part)
        assert own_mask.all()
        np.testing.assert_allclose(x[i, :length].numpy(), alone[0].numpy(), atol=2e-5)
        np.testing.assert_allclose(x[i, :length].numpy(), hidden[i].numpy()[places(model, length)], atol=2e-5)
        rest = hidden[i].numpy() if model.compute_padding else np.zeros((9, 24))
        np.testing.assert_allclose(x[i, length:].numpy(), rest[length:], atol=2e-5)
        (alone[0] * upstream[i, :length]).sum().backward()
    for key, value in learned().items():
        np.testing.assert_allclose(together[key], value, rtol=1e-4, atol=1e-4, err_msg=key)


@every_name
def test_real_tokens_may_stand_anywhere(name):
    model = build(name)
    scattered(model)
    ids = text(model, 8, batch=2)[0]
    holes = paddle.to_tensor([[0, 0, 1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 1, 1, 1, 1]])
    x, counted = model(ids, holes)
    hidden = model.hidden_states(ids, holes)[-1].numpy()
    for i in range(2):
        real = np.flatnonzero(holes[i].numpy())
        order = np.roll(real, 1) if model.causal else real
        np.testing.assert_allclose(x[i].numpy()[counted[i].numpy()], hidden[i][order], atol=2e-5)
    assert counted.sum(axis=1).tolist() == [4, 7]


@every_name
def test_mask_and_types_may_be_left_out(name):
    model = build(name)
    ids, mask = text(model, 6, batch=2)[:2]
    everything = [ids, mask, paddle.zeros_like(ids)][: len(model.input_names)]
    x, counted = model(ids)
    assert counted.all()
    np.testing.assert_array_equal(x.numpy(), model(*everything)[0].numpy())
    np.testing.assert_array_equal(x.numpy(), model(ids.astype("int32"))[0].numpy())


def test_a_padding_token_does_not_learn():
    for name in ("BERT", "RoBERTa"):
        model = build(name)
        assert not model.word_embed.weight[model.pad_id].any()
        assert bool(model.pos_embed.weight[model.pad_id].any()) == (name == "BERT")
        ids = paddle.to_tensor([[5, model.pad_id, 7]])
        model.hidden_states(ids)[-1].square().sum().backward()
        grad = model.word_embed.weight.grad.abs().sum(axis=1)
        assert grad[5] > 0 and grad[7] > 0 and grad[model.pad_id] == 0


def test_gpt_sees_no_later_token_and_bert_does():
    for name, seen in (("GPT", False), ("BERT", True)):
        model = build(name)
        ids = text(model, 8)[0]
        other = ids.clone()
        other[0, 5] = 3 + (ids[0, 5] == 3).astype("int64")
        one, two = (model.hidden_states(t)[-1].numpy()[0] for t in (ids, other))
        assert (np.abs(one - two)[:5].max() > 1e-6) == seen
        assert np.abs(one - two)[5:].max() > 1e-6


def test_the_language_loss_is_that_of_next_tokens():
    model = build("GPT")
    scattered(model)
    lengths = [9, 4, 1]
    parts = [text(model, length, seed=i) for i, length in enumerate(lengths)]
    ids, mask = padded(model, parts)
    loss = model.language_loss(model(ids, mask), ids)
    loss.backward()
    grad = model.word_embed.weight.grad.clone()
    model.clear_gradients()
    losses = []
    for part in parts[:2]:
        logits = model.next_token_logits(model.hidden_states(*part)[-1][0, :-1])
        losses.append(F.cross_entropy(logits, part[0][0, 1:]))
    total = sum(losses) / 3  # a text of one token has no next one
    total.backward()
    assert float(loss) == pytest.approx(float(total), rel=1e-5)
    np.testing.assert_allclose(grad.numpy(), model.word_embed.weight.grad.numpy(), rtol=1e-4, atol=1e-5)
    model.compute_padding = True
    assert float(model.language_loss(model(ids, mask), ids)) == pytest.approx(float(loss), rel=1e-5)


@every_name
def test_positions_follow(name):
    model = build(name)
    scattered(model)
    x = text(model, 12, batch=2)
    before = model(*x)[0].numpy()
    table = model.pos_embed.weight
    model.resize_positions(20)
    assert model.pos_embed.weight is table
    model.resize_positions(33)
    np.testing.assert_array_equal(model(*x)[0].numpy(), before)
    rows = model.pos_embed.weight.numpy()
    first = model.first_position
    assert len(rows) == first + 33
    np.testing.assert_array_equal(rows[first + 20 :], rows[first : first + 13])
    assert model(*text(model, 33))[0].shape == [1, 33, 24]
    model.resize_positions(12)
    np.testing.assert_array_equal(model(*x)[0].numpy(), before)
    with pytest.raises(ValueError, match="up to 12 tokens, got 13"):
        model(*text(model, 13))
    with pytest.raises(ValueError, match="at least 1"):
        model.resize_positions(0)


@every_name
def test_it_starts_as_officially(name):
    model = build(name, embed_dim=96, vocab_size=300)
    for key, value in model.state_dict().items():
        if "norm" in key:
            assert (value == (1.0 if key.endswith("weight") else 0.0)).all(), key
        elif key.endswith("bias"):
            assert not value.any(), key
        elif value.size > 1000:
            assert abs(float(value.std()) - 0.02) < 1.5e-3, key
    assert model.no_weight_decay() == set()
    assert model.blocks[0].norm1._epsilon == (1e-12 if name == "BERT" else 1e-5)


@every_name
def test_dropout_stands_where_the_official_code_has_it(name):
    # At the end of the embeddings and of both branches: what it leaves has a zero for every dropped number.
    model = build(name, drop_rate=0.5, attn_drop_rate=0.0)
    seen = {}

    def watch(key: str):
        def note(_layer, _inputs, out):
            seen[key] = float((out == 0).astype("float32").mean())

        return note

    block = model.blocks[0]
    for key, layer in {"embed": model.embed_drop, "attn": block.attn, "mlp": block.mlp}.items():
        layer.register_forward_post_hook(watch(key))
    hidden = []
    block.mlp.fc2.register_forward_pre_hook(lambda _layer, given: hidden.append(given[0]))
    model(*text(model, 20, batch=4))
    assert all(abs(share - 0.5) < 0.05 for share in seen.values()), seen
    assert set(seen) == {"embed", "attn", "mlp"}
    assert (hidden[0] != 0).all()


SIZES = {
    "BERT": {"vocab_size": 28996, "published": 108_310_272, "pooler": True},
    "RoBERTa": {"vocab_size": 50265, "published": 124_645_632, "pooler": True},
    "GPT": {"vocab_size": 40481, "published": 116_534_784 + 2_304, "pooler": False},
}


@pytest.mark.usefixtures("sampled_starts")
@every_name
def test_sizes_are_the_published_ones(name):
    how = SIZES[name]

    # Counted by two shallow models that know few tokens: a block, a token, and the rest.
    def count(depth: int) -> int:
        return count_parameters(build_backbone({"name": name, "vocab_size": 2, "depth": depth}))

    one = count(1)
    rest = 768 * (how["vocab_size"] - 2) + (768 * 768 + 768 if how["pooler"] else 0)
    assert one + 11 * (count(2) - one) + rest == how["published"]


def refused(name: str, *arguments, **more) -> str:
    with pytest.raises((ValueError, TypeError)) as error:
        build(name, **more)(*arguments)
    message = str(error.value)
    assert message.startswith(name) and "\n" not in message
    return message


@every_name
def test_wrong_inputs_are_told_in_a_line(name):
    ids = paddle.full([2, 5], 3, "int64")
    assert "int64 [batch, tokens]: input_ids is float32" in refused(name, ids.astype("float32"))
    assert "write paddle.to_tensor(input_ids)" in refused(name, ids.numpy())
    assert "input_ids of shape [batch, tokens], got [5]" in refused(name, ids[0])
    assert "attention_mask of shape [2, 5], got [2, 4]" in refused(name, ids, ids[:, 1:])
    unknown = ids.clone()
    unknown[1, 2] = 40
    assert "input_ids 0 to 39 (vocab_size), got 40 in text 1, place 2" in refused(name, unknown)
    mask = paddle.ones_like(ids)
    mask[1] = 0
    assert "attention_mask[1] is all 0" in refused(name, ids, mask)
    message = refused(name, ids, paddle.ones_like(ids), ids * 0 + 2)
    wanted = "token_type_ids 0 to 1 (num_types), got 2" if name == "BERT" else "leave token_type_ids out"
    assert wanted in message


@pytest.mark.parametrize("head", ["CrossCovarianceHead", "SecondOrderHead"])
def test_a_head_that_pools_padding_gets_it(head):
    more = {"reduction": [4, 3]} if head == "CrossCovarianceHead" else {"wr_dim": 4}
    logits = {}
    for obeyed in (True, False):
        paddle.seed(0)
        node = {"name": head, "num_classes": 3, "in_channels": 24, "mask_words": obeyed, **more}
        model = Classifier({"name": "BERT", **TINY}, node)
        model.eval()
        scattered(model)
        batch = padded(model.backbone, [text(model.backbone, 9), text(model.backbone, 4, seed=1)])
        logits[obeyed] = model(*batch)
        tokens = model.backbone.hidden_states(*batch)[-1]
        expected = model.head(tokens, batch[1] > 0 if obeyed else None)
        np.testing.assert_allclose(logits[obeyed].numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(logits[True].numpy() - logits[False].numpy())[1].max() > 1e-3


@every_name
def test_counting_writes_nothing(name, capfd):
    node = {"name": "PoolerHead", "num_classes": 3, "in_channels": 24}
    model = Classifier({"name": name, **TINY}, node)
    stats = model_stats(model)
    length = 20
    block = length * (4 * 24 * 24 + 2 * 24 * 48) + 2 * length**2 * 24
    assert stats.macs == 2 * block + 24 * 24 + 24 * 3
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
