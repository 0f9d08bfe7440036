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
    assert max(differences(Heads(architecture, TEXT_HEADS)).values()) < 1e-5


def test_a_graph_of_texts_takes_any_number_of_any_length(meta, stir, tmp_path):
    """The length of the tokenizer's longest text is neither traced in nor asked for."""
    model = stir(classifier("GPT", **TEXT))
    export_model(model, meta, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "inference.onnx")
    assert [(node.name, node.type) for node in session.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
    lengths = [5, 3, 9]
    ids = np.random.default_rng(0).integers(1, 100, (3, 9))
    mask = (np.arange(9) < np.array(lengths)[:, None]).astype("int64")
    _, together = session.run(None, {"input_ids": ids * mask, "attention_mask": mask})
    for number, length in enumerate(lengths):
        own = {"input_ids": ids[number : number + 1, :length]}
        _, alone = session.run(None, {**own, "attention_mask": np.ones((1, length), "int64")})
        np.testing.assert_allclose(alone[0], together[number], atol=1e-5)
    assert together.std() > 1e-2


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
