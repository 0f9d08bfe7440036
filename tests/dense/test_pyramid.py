"""PasslSotPyramid: every backbone's maps, and the suites' own Swin."""

import logging
import re

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_sot.config import ConfigError, UserError
from passl_sot.dense.pyramid import STRIDES, PasslSotPyramid
from passl_sot.weights.checkpoint import CheckpointError
from passl_sot.zoo import create_model

STAGED = {"depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}
STVIT = {"embed_dim": [8, 16, 16, 32], "stoken_size": [4, 2, 1, 1], **STAGED}
PLAIN = {"depth": 2, "embed_dim": 32, "num_heads": 2}
# A model of each family, and what makes it small.
SMALL = {
    "stvit_small": STVIT,
    "stvit_base": STVIT,
    "swin_tiny": {"embed_dim": 16, **STAGED},
    "swin_tiny_sot": {"embed_dim": 16, "token_dim": 8, **STAGED},
    "pit_ti": {"head_dim": 8, "depths": [1, 1, 1], "num_heads": [2, 4, 8]},
    "pit_s_distilled": {"head_dim": 8, "depths": [1, 1, 1], "num_heads": [2, 4, 8]},
    "deit_tiny": PLAIN,
    "deit_tiny_distilled": PLAIN,
    "t2t_vit_7": {**PLAIN, "token_dim": 16},
    "t2t_vit_t_14": {**PLAIN, "token_dim": 16},
    "sot_tiny": {**PLAIN, "token_dim": 8},
    "so_vit_7": {**PLAIN, "token_dim": 8},
}
TEXTS = {"depth": 1, "embed_dim": 24, "num_heads": 2, "vocab_size": 40}
every_model = pytest.mark.parametrize("name", SMALL)


def make(name: str, **more) -> PasslSotPyramid:
    paddle.seed(1)
    return PasslSotPyramid(name, settings=SMALL[name], **more)


@every_model
@pytest.mark.parametrize("size", [(64, 96), (37, 53), (1, 1), (256, 320)])
def test_maps_cover_images_of_any_size(name, size):
    pyramid = make(name)
    pyramid.eval()
    images = paddle.randn([2, 3, *size])
    maps = pyramid(images)
    sides = [[-(-side // stride) for side in size] for stride in STRIDES]
    shapes = [[2, channels, *grid] for channels, grid in zip(pyramid.feat_channels, sides, strict=True)]
    assert [list(x.shape) for x in maps] == shapes
    # As a detector asks, and whatever size came before.
    pyramid(paddle.randn([1, 3, 128, 32]))
    for again, x in zip(pyramid({"image": images}), maps, strict=True):
        np.testing.assert_allclose(again.numpy(), x.numpy(), atol=1e-5)
    assert all(np.isfinite(x.numpy()).all() for x in maps)


@every_model
def test_gradients_reach_all_parameters_and_recomputation_changes_none(name):
    images = paddle.randn([2, 3, 96, 64])
    gradients = []
    for recompute in (False, True):
        pyramid = make(name, recompute=recompute)
        pyramid.train()
        sum((x * x).mean() for x in pyramid(images)).backward()
        parameters = {key: p for key, p in pyramid.named_parameters() if not p.stop_gradient}
        assert not [key for key, p in parameters.items() if p.grad is None]
        gradients.append({key: p.grad.numpy() for key, p in parameters.items()})
    for key, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][key], gradient, rtol=1e-3, atol=1e-6, err_msg=key)


@every_model
def test_maps_of_the_planned_size_are_the_classifiers(name):
    """At 224 pixels a pyramid's maps are the feature maps, normalized: Swin's last stage aside, see below."""
    pyramid = make(name)
    pyramid.eval()
    maps = create_model(name, features_only=True, **SMALL[name])
    maps.backbone.set_state_dict(pyramid.backbone.state_dict())
    if name.startswith("pit"):  # whose patches a pyramid centers
        maps.backbone.resize([232, 232])
    images = paddle.randn([1, 3, 224, 224])
    wanted = maps(nn.functional.pad(images, [4, 4, 4, 4]) if name.startswith("pit") else images)
    for stride, i, change, norm, x in zip(
        STRIDES, pyramid.sources, pyramid.changes, pyramid.norms, pyramid(images), strict=True
    ):
        # One window over the whole grid is shifted in detection and not in classification.
        if not (name.startswith("swin") and stride == 32):
            np.testing.assert_allclose(norm(change(wanted[i])).numpy(), x.numpy(), atol=2e-5)


def own_swin(suite: str):
    """A suite's Swin with random parameters, and our pyramid with the same."""
    if suite == "paddleseg":
        module = pytest.importorskip("paddleseg.models.backbones.swin_transformer", reason="no PaddleSeg")
    else:
        module = pytest.importorskip("ppdet.modeling.backbones.swin_transformer", reason="no PaddleDetection")
    settings = {"embed_dim": 16, "depths": [2, 3, 2, 2], "num_heads": [1, 2, 4, 4]}
    paddle.seed(3)
    theirs = module.SwinTransformer(**settings)
    for parameter in theirs.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    ours = PasslSotPyramid("swin_tiny", settings=settings)
    values = theirs.state_dict()
    taken = {}
    for name in ours.state_dict():
        there = re.sub(r"^norms\.(\d)\.norm", r"norm\1", name.removeprefix("backbone."))
        taken[name] = values.pop(there)
    assert all("index" in name for name in values)
    ours.set_state_dict(taken)
    theirs.eval()
    ours.eval()
    return theirs, ours


# PaddleDetection's own cannot merge patches of odd grids.
@pytest.mark.parametrize(
    ("suite", "size"),
    [(suite, size) for suite in ("ppdet", "paddleseg") for size in ((224, 224), (128, 96), (448, 320))]
    + [("paddleseg", (100, 60)), ("paddleseg", (37, 53)), ("paddleseg", (200, 333))],
)
def test_maps_are_those_of_the_suites_own_swin(suite, size):
    theirs, ours = own_swin(suite)
    images = paddle.randn([2, 3, *size])
    wanted = theirs({"image": images} if suite == "ppdet" else images)
    for x, y in zip(ours(images), wanted, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["stvit_small", "swin_tiny", "pit_ti", "deit_tiny", "t2t_vit_7", "sot_tiny"])
@pytest.mark.parametrize("side", [224, 384])
def test_weights_of_a_classifier_come_in_whatever_their_size(name, side, tmp_path):
    small = tmp_path / "small.yaml"
    lines = "".join(f"    {key}: {value}\n" for key, value in SMALL[name].items())
    widths = {"stvit_small": 1024, "swin_tiny": 128, "pit_ti": 64}
    small.write_text(
        f"_base_: configs/{create_folder(name)}/{name}.yaml\nmodel:\n  architecture:\n{lines}"
        f"  head: {{in_channels: {widths.get(name, 32)}, num_classes: 5}}\n"
    )
    paddle.seed(2)
    model = create_model(small, img_size=side)
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    pyramid = PasslSotPyramid(str(small), str(tmp_path / "weights.pdparams"))
    ours = pyramid.backbone.state_dict()
    same = [key for key, value in model.backbone.state_dict().items() if equal(ours.get(key), value)]
    resized = {"pos_embed"} if side == 384 else set()
    missing = {key for key in ours if key not in same}
    assert missing <= resized, missing
    # A file that is none of this model's.
    paddle.save({"head.weight": paddle.ones([2, 2])}, str(tmp_path / "other.pdparams"))
    with pytest.raises(CheckpointError, match=r"other\.pdparams"):
        PasslSotPyramid(str(small), str(tmp_path / "other.pdparams"))


def create_folder(name: str) -> str:
    return re.sub(r"_(?!vit)[^_]*$", "", name)


def equal(a, b) -> bool:
    return a is not None and a.shape == b.shape and bool((a == b).all())


def test_frozen_batch_norm_stays_while_training():
    pyramid = make("stvit_small", norm="frozen")
    nn.Sequential(pyramid).train()
    norms = [layer for layer in pyramid.backbone.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    before = [norm._mean.numpy() for norm in norms]
    sum(x.mean() for x in pyramid(paddle.randn([2, 3, 64, 64]))).backward()
    assert norms
    assert all(norm.weight.grad is None and norm.bias.grad is None for norm in norms)
    assert all((norm._mean.numpy() == mean).all() for norm, mean in zip(norms, before, strict=True))
    moving = make("stvit_small", norm="sync")  # one process: the batch's own statistics
    moving.train()
    moving(paddle.randn([2, 3, 64, 64]))
    (first, *_) = (layer for layer in moving.backbone.sublayers() if isinstance(layer, nn.BatchNorm2D))
    assert float(first._mean.abs().sum()) > 0


def test_settings_reach_the_backbone():
    windows = SMALL["stvit_small"] | {"stoken_size": [16, 8, 2, 1]}
    pyramid = PasslSotPyramid("stvit_small", drop_path_rate=0.3, in_channels=5, settings=windows)
    assert [stage.blocks[0].attn.window for stage in pyramid.backbone.layers] == [16, 8, 2, 1]
    assert pyramid.backbone.layers[-1].blocks[-1].drop_path.rate == pytest.approx(0.3)
    assert pyramid(paddle.randn([1, 5, 64, 64]))[0].shape[1] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "stvit_smal"}, "did you mean stvit_small"),
        ({"model": "bert_base_cola", "settings": TEXTS}, "no backbone for images"),
        ({"model": "swin_tiny", "norm": "group"}, "norm of PasslSotPyramid must be frozen, batch or sync"),
        ({"model": "swin_tiny", "settings": {"embed_dims": 96}}, "did you mean 'embed_dim'"),
        ({"model": "deit_tiny", "settings": {"patch_size": 14}}, "deit_tiny has a token every 14 pixels"),
    ],
)
def test_what_is_wrong_is_said(arguments, words):
    with pytest.raises((ConfigError, UserError, ValueError), match=words):
        PasslSotPyramid(**arguments)


def test_one_import_registers_it_in_both_suites():
    manager = pytest.importorskip("paddleseg.cvlibs", reason="no PaddleSeg").manager
    workspace = pytest.importorskip("ppdet.core.workspace", reason="no PaddleDetection")
    import passl_sot.dense
    from passl_sot.dense.suites import register_in_installed

    assert passl_sot.dense
    register_in_installed()  # once more is no error
    assert manager.BACKBONES["PasslSotPyramid"] is PasslSotPyramid
    assert "settings" in workspace.global_config["PasslSotPyramid"].schema
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if "ppdet" in name]
    streams = [x.stream for logger in loggers for x in logger.handlers if hasattr(x, "stream")]
    assert streams and not any(stream.closed for stream in streams)
    shapes = make("swin_tiny").out_shape
    assert [(shape.channels, shape.stride) for shape in shapes] == [(16, 4), (32, 8), (64, 16), (128, 32)]
