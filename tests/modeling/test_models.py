"""The backbone contract, for every registered backbone at a tiny size.

A backbone is found by the registry, and made tiny by the names of its settings.
"""

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_sot.modeling.backbones import BACKBONES, build_backbone
from passl_sot.modeling.backbones.base import ImageBackbone, Tokens
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.stats import count_parameters
from passl_sot.utils.tracing import short_stacks

# Settings of a tiny model, by name; of one in stages where they differ, and where there is one per stage.
TINY = {"img_size": 32, "embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0}
TINY |= {"vocab_size": 40, "max_positions": 20}
TINY |= {"token_dim": 8, "stride": 2, "head_dim": 8, "window_size": 3, "init_values": 0.1, "projection": 24}
STAGED = TINY | {"depths": [2, 1, 2], "num_heads": [1, 2, 4], "patch_size": 4, "embed_dim": 12}
PER_STAGE = {"embed_dim": [8, 12, 16], "stoken_size": [4, 2, 1], "n_iter": [1, 1, 1]}
PER_STAGE |= {"layerscale": [False, False, True]}
RANDOM = {"drop_path_rate": 0.3, "drop_rate": 0.1, "attn_drop_rate": 0.1}
SIZES = ([32, 32], [40, 24])
INTERPOLATED = ("pos_embed", "relative_position_bias_table")  # learned tables that follow the size
# Further branches of a family's code; a new family may add its own.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "SoT": [
        {"class_token": False},
        {"large_output": True},
        {"token_embed": "Inception", "large_output": True},
        {"token_embed": "ResNet"},
        {"token_embed": "Inception"},
        {"token_embed": "Non-local"},
        {"token_embed": "Naive_linear", "qkv_bias": True},
    ],
    "T2TViT": [{"tokens_type": "transformer"}, {"qkv_bias": True}, {"pos_embed": "learned"}],
    "PiT": [{"distilled": True}],
    "DeiT": [{"distilled": True}, {"token_embed": "DenseNet"}],
    "Swin": [
        {"window_size": 4, "depths": [2, 3], "num_heads": [2, 4]},
        {"window_size": 2, "patch_norm": False},
        {"window_size": [4, 3, 2]},
        {"token_embed": "DenseNet"},
    ],
    "STViT": [
        {"stoken_size": [8, 4, 2], "n_iter": [2, 1, 1]},
        {"qkv_bias": False, "layerscale": [True, False, False], "img_size": [34, 29]},
    ],
}
CASES = [(name, i) for name in BACKBONES.names() for i in range(1 + len(VARIANTS.get(name, [])))]
OVER_IMAGES = [name for name in BACKBONES.names() if issubclass(BACKBONES.get(name), ImageBackbone)]
every_case = pytest.mark.parametrize(("name", "variant"), CASES)
every_name = pytest.mark.parametrize("name", BACKBONES.names())
every_image_case = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if c[0] in OVER_IMAGES])
every_image_name = pytest.mark.parametrize("name", OVER_IMAGES)


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(BACKBONES.get(name)).parameters


def settings(name: str) -> dict[str, Any]:
    found = {}
    for key, parameter in parameters(name).items():
        tiny = STAGED if "depths" in parameters(name) else TINY
        if isinstance(parameter.default, tuple) and key in PER_STAGE:
            tiny = PER_STAGE
        if key in tiny:
            found[key] = tiny[key]
    return found


def random_layers(name: str) -> dict[str, float]:
    return {key: rate for key, rate in RANDOM.items() if key in parameters(name)}


def node(name: str, variant: int = 0, **more) -> dict:
    own = VARIANTS[name][variant - 1] if variant else {}
    return {"name": name, **settings(name), **own, **more}


def build(name: str, variant: int = 0, seed: int = 0, **more):
    paddle.seed(seed)
    return build_backbone(node(name, variant, **more))


def images(model, batch: int = 2) -> paddle.Tensor:
    generator = np.random.default_rng(batch)
    return paddle.to_tensor(generator.standard_normal((batch, 3, *model.img_size)).astype("float32"))


def inputs(model, batch: int = 2) -> list[paddle.Tensor]:
    """Of any backbone; of texts the first is the longest."""
    if isinstance(model, ImageBackbone):
        return [images(model, batch)]
    return [paddle.to_tensor(array) for array in model.example_inputs(batch, seed=batch)]


def first_of(x: list[paddle.Tensor], *more: slice) -> list[paddle.Tensor]:
    return [tensor[(slice(1), *more)] for tensor in x]


def run(model, x: list[paddle.Tensor]) -> paddle.Tensor:
    """The tokens."""
    out = model(*x)
    # A saved graph gives a list of them and their mask.
    return out[0] if isinstance(out, Tokens | list) else out


def tokens_of(model) -> int:
    return model.num_prefix_tokens + model.grid_size[0] * model.grid_size[1]


@every_name
def test_it_is_tiny(name):
    # A full-size default left in would make the matrix slow without a word.
    assert count_parameters(build(name)) < 300_000


@every_image_case
def test_shapes_at_two_sizes(name, variant):
    for size in SIZES:
        model = build(name, variant, img_size=size)
        assert model.img_size == tuple(size)
        assert model(images(model)).shape == [2, tokens_of(model), model.num_features]


@every_case
def test_backward_reaches_every_trainable_parameter(name, variant):
    model = build(name, variant)
    for parameter in model.parameters():
        if not parameter.stop_gradient:
            # Some layers start at zero, which would hide those behind them.
            parameter.set_value(parameter + 0.05 * paddle.randn(parameter.shape))
    out = run(model, inputs(model, 4))
    (out * paddle.randn(out.shape)).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        assert parameter.grad is not None, key
        assert np.isfinite(parameter.grad.numpy()).all(), key
        # A shift of all keys leaves a softmax unchanged: the Non-local keys' biases get zero.
        assert ".phi." in key or float(parameter.grad.abs().max()) > 0, key


@every_case
def test_tokens_are_normalised_and_eval_is_deterministic(name, variant):
    model = build(name, variant, **random_layers(name))
    model.eval()
    x = inputs(model)
    out = run(model, x)
    assert np.array_equal(out.numpy(), run(model, x).numpy())
    if isinstance(getattr(model, "norm", nn.LayerNorm(1)), nn.LayerNorm):  # others leave no mean of 0
        np.testing.assert_allclose(out.numpy().mean(axis=-1), 0, atol=1e-5)
    # A sample's result does not depend on its batch.
    np.testing.assert_allclose(run(model, first_of(x)).numpy(), out[:1].numpy(), atol=1e-5)


def gradients(model, x: list[paddle.Tensor], upstream: np.ndarray) -> dict[str, np.ndarray]:
    model.clear_gradients()
    paddle.seed(3)
    (run(model, x) * paddle.to_tensor(upstream)).sum().backward()
    return {key: p.grad.numpy() for key, p in model.named_parameters() if not p.stop_gradient}


@every_case
def test_recompute_gives_the_same_gradients(name, variant):
    model = build(name, variant, **random_layers(name))
    model.train()
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    x = inputs(model)
    upstream = np.random.default_rng(0).standard_normal(run(model, x).shape).astype("float32")
    model.set_state_dict(start)
    plain = gradients(model, x, upstream)
    moved = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    model.set_state_dict(start)
    model.set_recompute(True)
    again = gradients(model, x, upstream)
    for key, value in model.state_dict().items():  # BatchNorm's statistics move once
        np.testing.assert_allclose(value.numpy(), moved[key], rtol=1e-5, atol=1e-6, err_msg=key)
    for key, value in plain.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    model.set_recompute(False)


@every_case
def test_state_dict_round_trip(name, variant, tmp_path):
    model = build(name, variant)
    path = str(tmp_path / "weights.pdparams")
    paddle.save(model.state_dict(), path)
    other = build(name, variant, seed=5)
    missing, unexpected = other.set_state_dict(paddle.load(path))
    assert not missing and not unexpected
    model.eval()
    other.eval()
    x = inputs(model)
    np.testing.assert_array_equal(run(model, x).numpy(), run(other, x).numpy())


@every_case
def test_intermediates_match_feature_info(name, variant):
    over_images = name in OVER_IMAGES
    model = build(name, variant, **({"img_size": SIZES[1]} if over_images else {}))
    model.eval()
    x = inputs(model)
    modules = dict(model.named_sublayers())
    maps = model.forward_intermediates(*x)
    assert len(maps) == len(model.feature_info)
    for info, feature_map in zip(model.feature_info, maps, strict=True):
        assert info["module"] in modules
        if not over_images:
            assert feature_map.shape == [*x[0].shape, info["num_chs"]]
            continue
        rows, columns = (-(-side // info["reduction"]) for side in model.img_size)
        assert feature_map.shape[:2] == [2, info["num_chs"]]
        assert abs(feature_map.shape[2] - rows) <= 1 and abs(feature_map.shape[3] - columns) <= 1
    last, first = model.forward_intermediates(*x, indices=[-1, 0])
    np.testing.assert_array_equal(last.numpy(), maps[-1].numpy())
    np.testing.assert_array_equal(first.numpy(), maps[0].numpy())
    np.testing.assert_array_equal(model.forward_intermediates(*x, indices=1)[0].numpy(), maps[-1].numpy())
    for wrong in (0, len(maps) + 1, [len(maps)]):
        with pytest.raises(ValueError, match="feature map"):
            model.forward_intermediates(*x, indices=wrong)


@every_image_case
def test_resize_equals_building_at_that_size(name, variant):
    first, second = SIZES
    model = build(name, variant, img_size=first)
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    model.resize(second)
    model.eval()
    x = images(model)
    fresh = build(name, variant, seed=9, img_size=second)
    fresh.eval()
    assert fresh.set_state_dict(model.state_dict()) == ([], [])
    np.testing.assert_array_equal(model(x).numpy(), fresh(x).numpy())
    for key, value in model.state_dict().items():
        if key.endswith(INTERPOLATED) and value.shape != list(before[key].shape):
            continue  # a learned table of another size; tested in tests/nn/test_position.py
        np.testing.assert_array_equal(value.numpy(), before[key])
    assert [info["reduction"] for info in model.feature_info] == [
        info["reduction"] for info in fresh.feature_info
    ]


@every_case
def test_static_graph_equals_eager(name, variant, tmp_path):
    # One block of each kind is enough, and translating a layer takes Paddle 50 ms.
    shallow = {"depth": 1, "depths": [1] * len(node(name, variant).get("depths", []))}
    model = build(name, variant, **{key: value for key, value in shallow.items() if key in settings(name)})
    model.eval()
    x = inputs(model, 3)
    expected = run(model, x).numpy()
    other = first_of(x) if name in OVER_IMAGES else first_of(x, slice(7))  # texts may be of any length
    expected_of_other = run(model, other).numpy()
    assert [spec.shape for spec in model.input_specs(3)] == [tuple(tensor.shape) for tensor in x]
    graph = paddle.jit.to_static(model, input_spec=model.input_specs(), full_graph=True)
    with short_stacks():
        if variant == 0:  # calling and saving translate once each: variants are called
            paddle.jit.save(graph, str(tmp_path / "model"))
            graph = paddle.jit.load(str(tmp_path / "model"))
        np.testing.assert_allclose(run(graph, x).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(run(graph, other).numpy(), expected_of_other, atol=1e-5)


@every_case
def test_two_builds_are_alike_and_share_nothing(name, variant):
    cfg = node(name, variant)
    kept = copy.deepcopy(cfg)
    one, two = build(name, variant, seed=4), build(name, variant, seed=4)
    assert cfg == kept
    for (key, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=key)
    with paddle.no_grad():
        for parameter in one.parameters():
            parameter.set_value(paddle.zeros_like(parameter))
    if name in OVER_IMAGES:
        one.resize(SIZES[1])
    else:
        one.resize_positions(30)
    one.feature_info[0]["num_chs"] = -1
    three = build(name, variant, seed=4)
    for (key, a), (_, b) in zip(two.named_parameters(), three.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=key)
    assert two.feature_info == three.feature_info
    assert [spec.shape for spec in two.input_specs()] == [spec.shape for spec in three.input_specs()]


@every_case
def test_layers_and_decay(name, variant):
    model = build(name, variant)
    names = [key for key, p in model.named_parameters() if not p.stop_gradient]
    depths = {key: model.layer_of(key) for key in names}
    # After the last block, there is nothing in models of texts but the head.
    assert set(depths.values()) == set(range(model.num_layers + (name in OVER_IMAGES)))
    assert depths.get("norm.weight", model.num_layers) == model.num_layers
    assert model.no_weight_decay() <= set(names)
    assert count_parameters(model) == sum(model.state_dict()[key].size for key in names)


@every_image_name
def test_images_of_another_shape_are_refused(name):
    model = build(name)
    with pytest.raises(ValueError, match=r"planned for images of 32x32 pixels, got 40x40.*resize"):
        model(paddle.zeros([1, 3, 40, 40]))
    with pytest.raises(ValueError, match=r"takes images \[batch, 3, 32, 32\], got \[1, 1, 32, 32\]"):
        model(paddle.zeros([1, 1, 32, 32]))
    with pytest.raises(ValueError, match="takes images"):
        model(paddle.zeros([3, 32, 32]))


@every_image_name
def test_impossible_sizes(name):
    model = build(name)
    for size in ([3, 3], [3, 64], [64, 3]):
        try:
            small = build(name, img_size=size)
        except ValueError as error:
            nearest = re.search(r"nearest valid size\D*(\d+)\D+(\d+)", str(error))
        else:  # any size will do: then this one does
            assert small(images(small)).shape == [2, tokens_of(small), small.num_features]
            continue
        sides = [int(side) for side in nearest.groups()]
        assert [new for new, old in zip(sides, size, strict=True) if old == 64] == [64] * size.count(64)
        for refused in (size, [new - (old == 3) for new, old in zip(sides, size, strict=True)]):
            with pytest.raises(ValueError, match="nearest valid size"):
                model.resize(refused)
        other = build(name, img_size=sides)
        assert other(images(other)).shape == [2, tokens_of(other), other.num_features]
    assert model.img_size == (32, 32)
    model(images(model))  # a refused resize leaves the model as it was
    for wrong in (0, [32], [32, 32, 32], [32, -1]):
        with pytest.raises(ValueError, match="img_size"):
            model.resize(wrong)


def test_sot_without_class_token_keeps_positions():
    with_token, without = build("SoT"), build("SoT", class_token=False)
    np.testing.assert_array_equal(with_token.pos_embed[:, 1:].numpy(), without.pos_embed.numpy())
    assert not any("pos_embed" in key or "cls_token" in key for key in without.state_dict())
    assert "pos_embed" not in with_token.state_dict()


def test_sot_starts_as_the_recipe_says():
    model = build("SoT", embed_dim=96, token_dim=64)
    assert abs(float(model.cls_token.std()) - 0.02) < 0.006
    assert abs(float(model.blocks[0].mlp.fc1.weight.std()) - 0.02) < 1e-3
    assert [block.drop_path.rate for block in build("SoT", drop_path_rate=0.2).blocks] == pytest.approx(
        [0.0, 0.1, 0.2]
    )
    assert model.blocks[0].attn.qkv.bias is None
    assert model.norm._epsilon == 1e-5


def test_views_make_no_difference():
    # With the stride kernels off, slices are copies: code that wrote through one would differ.
    architecture = node("SoT", depth=2)
    head = {"name": "SecondOrderHead", "num_classes": 5, "in_channels": 24, "num_heads": 2, "wr_dim": 4}
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("float32"))
    before = paddle.get_flags("FLAGS_use_stride_kernel")

    def values(kind: str, views: bool) -> list[np.ndarray]:
        paddle.set_flags({"FLAGS_use_stride_kernel": views})
        paddle.seed(0)
        model = Classifier(architecture={**architecture, "token_embed": kind}, head=head)
        y = model(x)
        (y * y).sum().backward()
        return [y.numpy(), *(p.grad.numpy() for p in model.parameters() if not p.stop_gradient)]

    try:
        for kind in ("DenseNet", "ResNet", "Inception", "Non-local", "Naive_linear"):
            for with_views, without in zip(values(kind, True), values(kind, False), strict=True):
                np.testing.assert_allclose(with_views, without, rtol=1e-4, atol=1e-5, err_msg=kind)
    finally:
        paddle.set_flags(before)
