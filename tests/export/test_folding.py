"""What is merged before an export gives the same, up to rounding, in fewer steps."""

import numpy as np
import paddle
import pytest

from passl_sot import create_model
from passl_sot.export.folding import fold
from passl_sot.nn import ops
from passl_sot.nn.batch_norm import BatchNorm2D
from passl_sot.nn.block import Attention
from passl_sot.nn.conv_mlp import ConvMlp

STVIT = {"embed_dim": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "projection": 16}
SOT = {"embed_dim": 24, "depth": 1, "num_heads": 2}
# The backbone's settings, and how many BatchNorms stay: those behind a GELU or a sum.
CASES = {
    "stvit_small": (STVIT, 4),
    "stvit_large": ({**STVIT, "layerscale": [True] * 4, "init_values": 0.5}, 4),
    "sot_tiny": (SOT, 0),
    "sot_tiny-ResNet": ({**SOT, "token_embed": "ResNet"}, 9),
    "so_vit_7": (SOT, None),
    "deit_small": ({"embed_dim": 24, "depth": 1, "num_heads": 2}, 0),
    "pit_s": ({"head_dim": 144, "depths": [1, 1], "num_heads": [2, 4]}, 0),
    "swin_tiny": ({"embed_dim": 384, "depths": [1, 2], "num_heads": [2, 4]}, 0),
    "t2t_vit_14": ({"embed_dim": 24, "depth": 1, "num_heads": 2}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_stay_and_norms_and_scales_go(name, stir):
    settings, left = CASES[name]
    model = stir(create_model(name.partition("-")[0], img_size=64, num_classes=5, **settings))
    model.to(dtype="float64")  # in which rounding hides nothing
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    folded = fold(model)
    images = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 64, 64)))
    with paddle.no_grad():
        wanted = model(images).numpy()
        found = folded(images).numpy()
    assert wanted.std() > 0.01
    assert np.abs(found - wanted).max() <= 1e-9 * np.abs(wanted).max()
    assert all(layer.scale == 1.0 for layer in folded.sublayers() if isinstance(layer, Attention))
    norms = [layer for layer in folded.sublayers() if isinstance(layer, BatchNorm2D)]
    if left is not None:
        assert len(norms) == left
    # The model itself is as it was.
    for key, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), before[key])


def test_a_graph_has_convolutions_where_eager_mode_has_products(stir, tmp_path):
    mlp = stir(ConvMlp(8, 16))
    images = np.random.default_rng(0).standard_normal((2, 8, 5, 6)).astype("float32")
    with paddle.no_grad():
        wanted = mlp(paddle.to_tensor(images)).numpy()
    stem = str(tmp_path / "mlp")
    paddle.jit.save(mlp, stem, input_spec=[paddle.static.InputSpec([None, 8, 5, 6], "float32")])
    layer = paddle.jit.load(stem)
    assert np.abs(layer(paddle.to_tensor(images)).numpy() - wanted).max() < 1e-5
    text = (tmp_path / "mlp.json").read_text()
    # With the weight on the left of a product, engines compute in float32 whatever they are asked for.
    assert "conv2d" in text
    assert "matmul" not in text


@pytest.mark.parametrize("kernel, stride, padding, size", [(7, 4, 2, (17, 22)), (3, 2, 1, (8, 5))])
def test_windows_are_those_of_unfold_pixel_by_pixel(kernel, stride, padding, size):
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, *size)))
    grid = [(side + 2 * padding - kernel) // stride + 1 for side in size]
    wanted = paddle.nn.functional.unfold(x, kernel, stride, padding).numpy()
    wanted = wanted.reshape(2, 3, kernel**2, -1).transpose(0, 3, 2, 1).reshape(2, grid[0] * grid[1], -1)
    found = ops.windows(x.transpose([0, 2, 3, 1]), kernel, stride, padding, grid)
    assert np.array_equal(found.numpy(), wanted)


def test_folded_tokens_to_token_cut_no_windows_by_unfold(monkeypatch, stir):
    for kind in ("performer", "transformer"):
        settings = {"embed_dim": 24, "depth": 1, "num_heads": 2, "tokens_type": kind}
        model = stir(create_model("t2t_vit_14", img_size=(37, 50), num_classes=5, **settings))
        folded = fold(model)
        images = paddle.randn([2, 3, 37, 50])
        with paddle.no_grad(), monkeypatch.context() as patch:
            wanted = model(images).numpy()
            patch.delattr(paddle.nn.functional, "unfold")
            found = folded(images).numpy()
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
