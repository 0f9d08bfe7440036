"""Every family and every kind of head: all engines compute what Paddle does."""

import numpy as np
import onnxruntime
import paddle
import pytest
from paddle import nn

from passl_sot.engines import ENGINES
from passl_sot.export import export_model
from passl_sot.export.card import ExportError
from passl_sot.export.proof import LIMIT
from passl_sot.export.source import change_size
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.heads import HEADS as REGISTERED
from passl_sot.nn.normalization import NORMALIZATIONS
from tests.export.tiny import (
    FAMILIES,
    HEADS,
    NORMS,
    PLAIN,
    SVPN,
    TEXT,
    TEXT_HEADS,
    TEXTS,
    Heads,
    Together,
    classifier,
)


def test_all_that_is_registered_is_tried():
    own = {name for name in BACKBONES.names() if BACKBONES.get(name).__module__.startswith("passl_sot.")}
    assert own == FAMILIES.keys() | TEXTS.keys()
    assert {node["name"] for node in (*HEADS, *TEXT_HEADS)} | {"DistilledHead"} == set(REGISTERED.names())
    # ISQRTCOV is what GCP has by default.
    tried = {node["name"] for node in NORMS if isinstance(node, dict)}
    assert tried | {"ISQRTCOV"} == set(NORMALIZATIONS.names())


@pytest.fixture
def differences(meta, tmp_path, stir):
    """Exports a model and gives the greatest difference of each engine."""

    def export(model: nn.Layer) -> dict[str, float]:
        stir(model)
        logits = model(*map(paddle.to_tensor, model.backbone.example_inputs(7)))
        assert float(logits.std(axis=0).min()) > 1e-3  # each depends on the input
        return export_model(model, meta, tmp_path / "out")

    return export


def test_families(differences):
    models = [classifier(name, **settings) for name in FAMILIES for settings in FAMILIES[name]]
    assert differences(Together(models)).keys() == set(ENGINES)


def test_heads_and_another_number_of_channels(differences):
    architecture = {"name": "SoT", "img_size": 32, "in_chans": 5, **PLAIN, "token_embed": "Naive_linear"}
    assert max(differences(Heads(architecture, HEADS)).values()) < LIMIT


def test_families_of_texts(differences):
    models = [classifier(name, **settings) for name in TEXTS for settings in TEXTS[name]]
    found = differences(Together(models))
    assert found.keys() == set(ENGINES)
    assert max(found.values()) < 1e-5


def test_heads_on_texts(differences):
    architecture = {"name": "BERT", **TEXT}
    assert max(differences(Heads(architecture, TEXT_HEADS)).values()) < LIMIT


def test_a_graph_of_texts_takes_any_number_of_any_length(meta, stir, tmp_path):
    """The length of the traced texts, and of the shortest ones, is nowhere in it."""
    heads = [node for node in TEXT_HEADS if node.get("normalization") in (None, "default", SVPN)]
    model = stir(Heads({"name": "GPT", **TEXT}, heads))
    export_model(model, meta, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "inference.onnx")
    names = ["input_ids", "attention_mask"]
    assert [(node.name, node.type) for node in session.get_inputs()] == [
        (name, "tensor(int64)") for name in names
    ]
    for batch, longest in ((1, 2), (4, 3), (2, 9)):
        texts = model.backbone.example_inputs(batch, longest=longest)
        _, found = session.run(None, dict(zip(names, texts, strict=True)))
        wanted = model(*map(paddle.to_tensor, texts)).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5 * abs(wanted).max())


def test_padding_changes_nothing_where_words_are_masked(meta, stir, tmp_path):
    model = stir(classifier("RoBERTa", **TEXT))
    export_model(model, meta, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "inference.onnx")
    lengths = [5, 3, 9]
    ids = np.random.default_rng(0).integers(2, 100, (3, 9))
    mask = (np.arange(9) < np.array(lengths)[:, None]).astype("int64")
    padded = {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}
    together = session.run(None, padded)[1]
    assert together.std() > 1e-2
    for number, length in enumerate(lengths):
        own = {
            "input_ids": ids[number : number + 1, :length],
            "attention_mask": mask[number : number + 1, :length],
        }
        np.testing.assert_allclose(session.run(None, own)[1][0], together[number], atol=1e-5)


def test_what_is_for_images_alone_is_refused_for_texts(meta, tmp_path):
    model = classifier("BERT", **TEXT)
    with pytest.raises(ExportError, match="BERT takes no images, whose size could be left open"):
        export_model(model, meta, tmp_path / "out", dynamic=True)
    with pytest.raises(ExportError, match="BERT takes no images, whose size could be changed"):
        change_size(model, meta, 48)


@pytest.mark.parametrize("channels", [1, 13])
def test_another_size_other_channels_and_several_labels(channels, meta, stir, tmp_path):
    models = [
        classifier(name, **{**FAMILIES[name][0], "in_chans": channels})
        for name in ("DeiT", "PiT", "Swin", "STViT", "T2TViT")
    ]
    model = stir(Together(models))
    meta["config"]["dataloader"]["train"]["dataset"]["multi_label"] = True
    # Tables are interpolated, Swin's windows stay.
    found = export_model(model, change_size(model, meta, 48), tmp_path / "out")
    assert found.keys() == set(ENGINES)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "inference.onnx")
    images = np.random.default_rng(0).standard_normal((2, channels, 48, 48)).astype("float32")
    probabilities, logits = session.run(None, {"image": images})
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.abs(logits[0] - logits[1]).min() > 1e-5
