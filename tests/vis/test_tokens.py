"""Pictures of tokens against computations of their own, for every family and several sizes."""

import numpy as np
import paddle
import pytest
from matplotlib.colors import rgb_to_hsv

from passl_sot.config import UserError
from passl_sot.modeling.backbones import build_backbone
from passl_sot.nn.super_tokens import SuperTokenAttention
from passl_sot.vis.token_pictures import _borders, _colours_of, token_pictures
from passl_sot.vis.tokens import principal_colours, token_flow

ST = {"name": "STViT", "embed_dim": [8, 16, 16], "depths": [2, 1, 1], "num_heads": [1, 2, 2]}
ST |= {"stoken_size": [4, 2, 1], "n_iter": [1, 2, 1], "layerscale": [False] * 3, "projection": 8}
PLAIN = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 1.0}
FAMILIES = {
    "t2t": {"name": "T2TViT", **PLAIN},
    "t2t_t": {"name": "T2TViT", **PLAIN, "tokens_type": "transformer"},
    "deit": {"name": "DeiT", **PLAIN, "patch_size": 8, "distilled": True},
    "pit": {
        "name": "PiT",
        "head_dim": 4,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "stride": 4,
        "patch_size": 8,
    },
    "swin": {"name": "Swin", "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4},
    "stvit": ST,
    **{
        name: {"name": "SoT", **PLAIN, "token_embed": name, "token_dim": 8}
        for name in ("DenseNet", "ResNet", "Inception", "Non-local", "Naive_linear")
    },
}


def build(node: dict, size=(32, 32)):
    model = build_backbone({**node, "img_size": list(size)})
    model.eval()
    return model


def image(size) -> paddle.Tensor:
    # Few large patches, so that neighbors differ and a border tells.
    noise = np.random.default_rng(5).standard_normal((1, 3, size[0] // 8 + 1, size[1] // 8 + 1))
    return paddle.to_tensor(noise.repeat(8, 2).repeat(8, 3)[:, :, : size[0], : size[1]].astype("float32"))


def strongest(pixels_chw: np.ndarray, s: int, iters: int) -> np.ndarray:
    """The strongest super token of every pixel, by loops over pixels and neighbors."""
    channels, height, width = pixels_chw.shape
    rows, columns = -(-height // s), -(-width // s)
    full = np.zeros((channels, rows * s, columns * s))
    full[:, :height, :width] = pixels_chw
    windows = full.reshape(channels, rows, s, columns, s)
    tokens = windows.mean(axis=(2, 4))
    for i in range(iters):
        mass, sums = np.zeros((rows, columns)), np.zeros_like(tokens)
        best = np.zeros((rows * s, columns * s), int)
        for y in range(rows * s):
            for x in range(columns * s):
                near = [(y // s + a, x // s + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
                inside = [0 <= r < rows and 0 <= c < columns for r, c in near]
                logits = np.zeros(9)
                for k, (r, c) in enumerate(near):
                    if inside[k]:
                        logits[k] = full[:, y, x] @ tokens[:, r, c] * channels**-0.5
                weights = np.exp(logits) / np.exp(logits).sum()
                (r, c) = near[max((k for k in range(9) if inside[k]), key=lambda k: weights[k])]
                best[y, x] = r * columns + c
                for k, place in enumerate(near):
                    if inside[k]:
                        mass[place] += weights[k]
                        sums[(slice(None), *place)] += weights[k] * full[:, y, x]
        if i < iters - 1:
            tokens = sums / mass
    return best[:height, :width]


@pytest.mark.parametrize("size", [(32, 64), (50, 37)])
def test_super_tokens_are_the_strongest_of_the_pass(size, stir, monkeypatch):
    model = stir(build(ST, size))
    used, associate = [], SuperTokenAttention.associate

    def watched(layer, pixels, rows, columns):
        weights, mass = associate(layer, pixels, rows, columns)
        used.append((layer, pixels, weights.numpy()[0], rows, columns))
        return weights, mass

    monkeypatch.setattr(SuperTokenAttention, "associate", watched)
    model(image(size))
    forward = {id(layer): rest for layer, *rest in used}
    found = token_flow(model, image(size)).super_tokens
    assert [stage.title for stage in found] == ["stage 1 of 3", "stage 2 of 3"]
    for s, stage in enumerate(found):
        layer = model.layers[s].blocks[-1].attn
        pixels, weights, rows, columns = forward[id(layer)]
        window = layer.window
        assert stage.grid == (rows, columns) and (stage.stride, stage.window) == (4 * 2**s, window)
        height, width = stage.numbers.shape
        assert (height, width) == model.grids[s]
        whole = pixels.numpy()[0].reshape(rows, columns, window, window, -1).transpose(4, 0, 2, 1, 3)
        whole = whole.reshape(len(whole), rows * window, columns * window)
        expected = strongest(whole[:, :height, :width], window, layer.num_iters)
        np.testing.assert_array_equal(stage.numbers, expected)
        assert (stage.numbers != stage.plain).any()
        # The weight given is that of the association in the forward pass, and the largest inside the grid.
        for y, x in np.ndindex(height, width):
            m = (y // window) * columns + x // window
            row, column = np.divmod(stage.numbers[y, x], columns)
            down, right = row - y // window, column - x // window
            assert abs(down) <= 1 and abs(right) <= 1  # no wrap to the other side
            mine = weights[m, (y % window) * window + x % window]
            inside = [
                0 <= y // window + a < rows and 0 <= x // window + b < columns
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
            ]
            assert mine[(down + 1) * 3 + right + 1] == mine[inside].max()


def test_one_super_token_is_no_picture():
    found = token_flow(build(ST, (16, 16)), image((16, 16))).super_tokens
    assert not found  # maps of 4×4 and 2×2 are one window each


def test_pixels_far_from_all_super_tokens_stay_inside(monkeypatch):
    layer = SuperTokenAttention(4, 1, 2)
    norm = paddle.nn.LayerNorm(4)
    # Every logit inside the grid is negative, so that a neighbor outside has the largest weight.
    monkeypatch.setattr(
        layer, "_spread", lambda tokens, rows, columns: -paddle.ones([1, rows * columns, 9, 4])
    )
    norm.bias.set_value(paddle.ones([4]))
    norm.weight.set_value(paddle.zeros([4]))
    numbers, grid = layer.assign(paddle.randn([1, 4, 4, 6]), norm)
    assert grid == (2, 3) and numbers.shape == (1, 4, 6) and numbers.max() < 6


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(32, 32), (40, 72)])
def test_maps_are_those_of_the_steps(name, size):
    model = build(FAMILIES[name], size)
    flow = token_flow(model, image(size))
    titles = [found.title for found in flow.maps]
    words = "block" if len(model.depths) == 1 else "stage"
    stages = [found for found in flow.maps if found.title.startswith(f"{words} ")]
    for found, values, info in zip(
        stages, model.forward_intermediates(image(size)), model.feature_info, strict=True
    ):
        np.testing.assert_array_equal(found.values, values[0].numpy())
        assert found.stride == info["reduction"]
    steps = flow.maps[: len(flow.maps) - len(stages)]
    # The last step gives the words before the position table.
    assert steps[-1].grid == model.grids[0] and len(steps[-1].values) == model.feature_info[0]["num_chs"]
    assert len(set(titles)) == len(titles)
    for found in flow.maps:
        for side, cells in zip(size, found.grid, strict=True):
            assert abs(side / found.stride - cells) <= 1.0, found.title
    assert not any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in model.sublayers())


def test_soft_splits_are_windows_of_the_image():
    model = build(FAMILIES["t2t"], (32, 48))
    x = image((32, 48))
    maps = token_flow(model, x).maps
    assert [found.title.partition(":")[0] for found in maps[:6]] == [
        "soft split 1",
        "performer 1",
        "soft split 2",
        "performer 2",
        "soft split 3",
        "projection",
    ]
    padded = np.pad(x[0].numpy(), ((0, 0), (2, 2), (2, 2)))
    first = maps[0]
    assert (first.stride, first.window) == (4, (7, -2))
    for r, c in ((0, 0), (3, 5), (7, 11)):
        window = padded[:, 4 * r : 4 * r + 7, 4 * c : 4 * c + 7]
        np.testing.assert_array_equal(first.values[:, r, c], window.ravel())
    # What a token of each split can depend on through windows alone: the pixels of its window.
    for split, before in ((maps[2], maps[1]), (maps[4], maps[3])):
        assert len(split.values) == 9 * len(before.values)
        np.testing.assert_array_equal(split.values[4::9, 1, 2], before.values[:, 2, 4])
    for i, (side, start) in enumerate(((7, -2), (15, -6), (31, -14))):
        assert maps[2 * i].window == (side, start)
        if i:
            inner, first_pixel = maps[2 * i - 2].window
            step = maps[2 * i - 2].stride
            assert (side, start) == (inner + 2 * step, first_pixel - step)


def test_the_embedding_without_a_window_has_none():
    for name in ("deit", "swin", "DenseNet"):
        assert not any(found.window for found in token_flow(build(FAMILIES[name]), image((32, 32))).maps)
    pit = token_flow(build(FAMILIES["pit"]), image((32, 32))).maps[0]
    assert (pit.stride, pit.window) == (4, (8, 0))


def test_a_deep_model_shows_some_blocks():
    model = build({**FAMILIES["deit"], "depth": 9, "embed_dim": 8})
    titles = [found.title for found in token_flow(model, image((32, 32))).maps]
    assert titles == ["patch embedding", *(f"block {i} of 9" for i in (1, 4, 6, 9))]


@pytest.mark.parametrize("width", [9, 60])
def test_components_are_the_principal_ones(width):
    scale = np.linspace(1, 9, width)[:, None, None]
    values = np.random.default_rng(0).standard_normal((width, 6, 7)) * scale
    colours, share = principal_colours(values)
    tokens = values.reshape(width, -1).T
    tokens = tokens - tokens.mean(axis=0)
    u, s, _ = np.linalg.svd(tokens, full_matrices=False)
    assert share == pytest.approx((s[:3] ** 2).sum() / (s**2).sum())
    components = (u[:, :3] * s[:3]).reshape(6, 7, 3)
    for k in range(3):
        ours = colours[..., k].astype(float)
        assert abs(np.corrcoef(ours.ravel(), components[..., k].ravel())[0, 1]) > 0.99
        assert (ours.min(), ours.max()) == (0, 255)
        assert ours[1:-1, 1:-1].mean() > ours.mean()  # the rim is dark
    # The signs follow the picture before, also of another size.
    turned, _ = principal_colours(-values, 255 - colours.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_allclose(turned, 255 - colours.astype(int), atol=1)


@pytest.mark.parametrize("shape", [(2, 3, 3), (5, 1, 2), (4, 1, 1), (3, 2, 2)])
def test_few_tokens_and_equal_ones_have_colours(shape):
    colours, share = principal_colours(np.ones(shape, np.float32))
    assert colours.shape == (*shape[1:], 3) and share == 1.0
    colours, share = principal_colours(np.random.default_rng(1).standard_normal(shape))
    assert colours.shape == (*shape[1:], 3) and 0 < share <= 1 + 1e-9


def test_cells_differ_from_cells_nearby():
    rows, columns = 9, 13
    colours = _colours_of((rows, columns)).reshape(rows, columns, 3) / 255
    hsv = rgb_to_hsv(colours)
    for down in range(3):
        for right in range(-2, 3):
            if (down, right) <= (0, 0):
                continue
            here = hsv[: rows - down, max(0, -right) : columns - max(0, right)]
            there = hsv[down:, max(0, right) : columns - max(0, -right)]
            hue = np.abs(here[..., 0] - there[..., 0])
            hue = np.minimum(hue, 1 - hue)
            value = np.abs(here[..., 2] - there[..., 2])
            assert ((hue > 0.09) | (value > 0.3)).all()


def test_borders_lie_between_numbers():
    numbers = np.zeros((6, 8), int)
    numbers[:, 4:] = 7
    expected = np.zeros((6, 8), bool)
    expected[:, 3:5] = True
    np.testing.assert_array_equal(_borders(numbers), expected)


@pytest.mark.parametrize(("name", "size"), [("stvit", (50, 37)), ("t2t", (32, 32)), ("DenseNet", (32, 64))])
def test_pictures(name, size):
    model = build(FAMILIES[name], size)
    shown = np.full((*size, 3), 90, np.uint8)
    drawn = token_pictures(model, image(size), shown)
    assert [d.name for d in drawn] == ["tokens", *(["super-tokens-1", "super-tokens-2"] * (name == "stvit"))]
    for d in drawn:
        boxes = [text.get_window_extent() for text in d.figure.axes[0].texts]
        boxes += [picture.get_window_extent() for picture in d.figure.axes[0].images]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i]), d.name
            assert d.figure.bbox.containsx(box.x0) and d.figure.bbox.containsx(box.x1)
            assert d.figure.bbox.containsy(box.y0) and d.figure.bbox.containsy(box.y1)
    text = " ".join(text.get_text() for text in drawn[0].figure.axes[0].texts)
    assert f"{size[0]}×{size[1]} pixels" in text
    if name == "t2t":
        assert "8×8 tokens\nevery 4 pixels, of 7×7 each" in text
        assert len(drawn[0].figure.axes[0].patches) == 6  # two windows of each split
    if name == "stvit":
        axes = drawn[1].figure.axes[0]
        assert axes.texts[1].get_text().startswith("4×3 = 12 super tokens")
        # The picture is that of the image, without what was padded.
        enlarged = axes.images[1].get_array()
        assert enlarged.shape[0] * size[1] == enlarged.shape[1] * size[0]
        assert "% of them belong to another" in drawn[1].caption


def test_texts_have_no_grids():
    bert = build_backbone(
        {"name": "BERT", "vocab_size": 9, "max_positions": 8, "embed_dim": 8, "depth": 1, "num_heads": 1}
    )
    with pytest.raises(UserError, match="only images have grids"):
        token_flow(bert, paddle.zeros([1, 4], "int64"))
