"""Other sizes than the model's: a graph for another one, and graphs of open size."""

import numpy as np
import paddle
import pytest

from passl_sot.engines import ENGINES, open_engine
from passl_sot.export import export_model
from passl_sot.export.card import ExportError, read_facts
from passl_sot.export.source import change_size, read_source
from tests.export.tiny import PLAIN, STAGES, STVIT, Together, classifier

OPEN = [
    ("T2TViT", {**PLAIN, "token_dim": 8}),
    ("DeiT", {**PLAIN, "patch_size": 8}),
    ("PiT", {**STAGES, "head_dim": 8, "patch_size": 8, "stride": 4}),
    ("STViT", STVIT),
]


def test_graphs_of_open_size_compute_what_resized_models_do(stir, meta, tmp_path):
    model = stir(Together([classifier(name, **settings) for name, settings in OPEN]))
    folder = tmp_path / "out"
    found = export_model(model, meta, folder, dynamic=True)
    assert found.keys() == set(ENGINES)
    assert read_facts(folder)["dynamic_size"] is True
    # A size that the proof didn't try, smaller in one way and larger in the other.
    x = np.random.default_rng(0).standard_normal((2, 3, 27, 51)).astype("float32")
    model.resize([27, 51])
    wanted = model(paddle.to_tensor(x)).numpy()
    for engine in ENGINES:
        # Random weights give PiT logits above 100.
        assert np.abs(open_engine(engine, folder)(x) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_family_with_tables_for_one_size_is_refused(meta, tmp_path):
    model = classifier("Swin", **STAGES, embed_dim=8)
    with pytest.raises(ExportError, match=r"a graph of Swin takes one size of images: .* for one size"):
        export_model(model, meta, tmp_path / "out", dynamic=True)
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_follows_another_size(trained):
    model, meta = read_source(trained.checkpoint)
    sized = change_size(model, meta, 48)
    assert model.backbone.img_size == (48, 48)
    assert sized["config"]["model"]["architecture"]["img_size"] == 48
    assert [node.get("size") for node in sized["preprocessing"]["transforms"]] == [48, 48, None]
    assert [node.get("crop_pct") for node in sized["preprocessing"]["transforms"]] == [0.875, None, None]
    assert [node.get("size") for node in meta["preprocessing"]["transforms"]] == [32, 32, None]
    # A resize written as a size of its own keeps its proportion to the crop.
    transforms = [
        {"name": "Resize", "size": 64},
        {"name": "CenterCrop", "size": [48, 48]},
        {"name": "Normalize"},
    ]
    meta = {**meta, "preprocessing": {"transforms": transforms}}
    sized = change_size(model, meta, 96)["preprocessing"]["transforms"]
    assert [node.get("size") for node in sized] == [128, [96, 96], None]
