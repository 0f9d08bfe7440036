"""PASSL's and PaddleClas's .pdparams: names and layouts as their code gives them, written down here.

Seen in PASSL (commit 5c7359b: `passl_v110` is its first version, `passl` its second) and PaddleClas (commit
d178931). A Linear's weight is [in, out] in all of them; convolutions, tokens and tables are as in PyTorch.
"""

import numpy as np
import paddle
import pytest

from passl_sot.cli import convert
from passl_sot.interop import convert_state_dict
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.position import resize_position_table, sinusoid_table
from passl_sot.nn.window import relative_position_index, shift_mask

CLASSES = 5
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (inputs, outputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def mlp(name: str, width: int, hidden: int) -> Shapes:
    return linear(f"{name}.fc1", width, hidden) | linear(f"{name}.fc2", hidden, width)


def block(name: str, width: int, hidden: int, qkv_bias: bool) -> Shapes:
    return (
        norm(f"{name}.norm1", width)
        | linear(f"{name}.attn.qkv", width, 3 * width, qkv_bias)
        | linear(f"{name}.attn.proj", width, width)
        | norm(f"{name}.norm2", width)
        | mlp(f"{name}.mlp", width, hidden)
    )


def deit(distilled: bool) -> Shapes:
    """32 pixels in patches of 16, width 12, two blocks."""
    names = {"pos_embed": (1, 6 if distilled else 5, 12), "cls_token": (1, 1, 12)}
    names |= {"patch_embed.proj.weight": (12, 3, 16, 16), "patch_embed.proj.bias": (12,)}
    names |= block("blocks.0", 12, 48, True) | block("blocks.1", 12, 48, True) | norm("norm", 12)
    names |= linear("head", 12, CLASSES)
    return names | ({"dist_token": (1, 1, 12)} | linear("head_dist", 12, CLASSES) if distilled else {})


def swin() -> Shapes:
    """64 pixels in patches of 4, widths 8 and 16, windows of 4; without head and tables."""
    names = {"patch_embed.proj.weight": (8, 3, 4, 4), "patch_embed.proj.bias": (8,)}
    names |= norm("patch_embed.norm", 8) | norm("norm", 16)
    for stage, width, heads in ((0, 8, 1), (1, 16, 2)):
        for i in (0, 1):
            name = f"layers.{stage}.blocks.{i}"
            names |= block(name, width, 4 * width, True)
            names[f"{name}.attn.relative_position_bias_table"] = (49, heads)
    return (
        names | norm("layers.0.downsample.norm", 32) | linear("layers.0.downsample.reduction", 32, 16, False)
    )


def swin_tables(masks: bool, biases: bool) -> dict[str, np.ndarray]:
    tables = {}
    for stage, side in ((0, 16), (1, 8)):
        for i in (0, 1):
            name = f"layers.{stage}.blocks.{i}"
            tables[f"{name}.attn.relative_position_index"] = relative_position_index(4)
            if biases:
                tables[f"{name}.attn.relative_position_bias"] = np.ones((1, stage + 1, 16, 16), "f4")
            if masks and i:
                tables[f"{name}.attn_mask"] = shift_mask((side, side), 4, 2)
    return tables


def t2t() -> Shapes:
    """32 pixels, width 12, one block, performers of width 8."""
    names = {"cls_token": (1, 1, 12)} | norm("norm", 12) | block("blocks.0", 12, 24, False)
    for name, width in (("attention1", 147), ("attention2", 72)):
        name = f"tokens_to_token.{name}"
        names |= {f"{name}.w": (4, 8)} | linear(f"{name}.kqv", width, 24) | linear(f"{name}.proj", 8, 8)
        names |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", 8)
        names |= linear(f"{name}.mlp.0", 8, 8) | linear(f"{name}.mlp.2", 8, 8)
    return names | linear("tokens_to_token.project", 72, 12)


def below(prefix: str, names: dict) -> dict:
    return {f"{prefix}{name}": value for name, value in names.items()}


DEIT = {"name": "DeiT", "img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
SWIN = {
    "name": "Swin",
    "img_size": 64,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}
T2T = {"name": "T2TViT", "img_size": 32, "embed_dim": 12, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
T2T["token_dim"] = 8
LINEAR = {"name": "LinearHead", "num_classes": CLASSES, "in_channels": 12}
DISTILLED = {"name": "DistilledHead", "num_classes": CLASSES, "in_channels": 12}
MEAN = {**LINEAR, "in_channels": 16, "pool": "mean", "num_prefix_tokens": 0}
POSITIONS = {"backbone.pos_embed": sinusoid_table(5, 12).numpy()}

# project and family: architecture, head, shapes by name, tables by name, naming
CASES = {
    "PASSL 1 T2T": (
        T2T, LINEAR, below("backbone.", t2t()) | linear("head.fc_cls", 12, CLASSES), POSITIONS, "PASSL",
    ),
    "PASSL 1 Swin": (
        SWIN, MEAN, below("backbone.", swin()) | linear("head.fc_cls", 16, CLASSES),
        below("backbone.", swin_tables(masks=True, biases=False)), "PASSL",
    ),
    "PASSL 1 DeiT": (DEIT, LINEAR, below("backbone.", deit(False)), {}, "PASSL"),
    "PASSL 1 DeiT distilled": (
        {**DEIT, "distilled": True}, DISTILLED, below("backbone.", deit(True)), {}, "PASSL",
    ),
    "PASSL 2 Swin": (
        SWIN, MEAN, swin() | linear("head", 16, CLASSES), swin_tables(masks=True, biases=False), "official",
    ),
    "PASSL 2 and PaddleClas DeiT": (DEIT, LINEAR, deit(False), {}, "official"),
    "PaddleClas DeiT distilled": ({**DEIT, "distilled": True}, DISTILLED, deit(True), {}, "official"),
    "PaddleClas Swin": (
        SWIN, MEAN, swin() | linear("head", 16, CLASSES), swin_tables(masks=False, biases=True), "official",
    ),
}  # fmt: skip
HEADS = {"head.fc_cls": "head.fc", "head": "head.fc", "head_dist": "head.head_dist"}


def where(source: str, model: Classifier) -> str:
    """The place of an entry, found without the converter's rules."""
    name, _, leaf = source.removeprefix("backbone.").rpartition(".")
    if name not in HEADS:
        return f"backbone.{name}.{leaf}" if name else f"backbone.{leaf}"
    own = "head.head" if name == "head" and hasattr(model.head, "head_dist") else HEADS[name]
    return f"{own}.{leaf}"


@pytest.mark.parametrize("case", CASES)
def test_state_dict(case):
    architecture, head, shapes, tables, naming = CASES[case]
    model = Classifier(architecture=architecture, head=head)
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    out, report = convert_state_dict(model, state | tables, layout="paddle")
    assert report.ok, str(report)
    assert report.naming == naming
    assert {name for name, _ in report.ignored} == tables.keys()
    assert out.keys() == model.state_dict().keys()
    for source, value in state.items():  # square weights too: nothing is turned
        np.testing.assert_array_equal(out[where(source, model)], value, err_msg=source)


def test_a_file_of_passl(tmp_path):
    architecture, head, shapes, _, _ = CASES["PASSL 1 DeiT"]
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    tensors = {name: paddle.to_tensor(value) for name, value in state.items()}
    paddle.save({"epoch": 300, "state_dict": tensors}, str(tmp_path / "epoch_300.pd"))
    config = tmp_path / "small.yaml"
    config.write_text(f"model:\n  architecture: {architecture}\n  head: {head}\n".replace("'", ""))
    dst = tmp_path / "a.pdparams"
    assert convert(["--config", str(config), "--src", str(tmp_path / "epoch_300.pd"), "--dst", str(dst)]) == 0
    loaded = paddle.load(str(dst))
    key = "blocks.1.attn.proj.weight"
    np.testing.assert_array_equal(loaded[f"backbone.{key}"].numpy(), state[f"backbone.{key}"])


def test_a_position_table_that_passl_learned():
    """PASSL trains what is fixed officially: a model with `pos_embed: learned` takes it, at any size."""
    architecture, head, shapes, tables, _ = CASES["PASSL 1 T2T"]
    state = {name: np.zeros(shape, "f4") for name, shape in shapes.items()}
    learned = {name: value + 0.5 for name, value in tables.items()}
    _, report = convert_state_dict(
        Classifier(architecture=architecture, head=head), state | learned, layout="paddle"
    )
    assert len(report.conflicts) == 1 and report.faults == 1
    said = str(report)
    assert "backbone.pos_embed: a fixed table that differs from the model's own by up to 5.0e-01" in said
    assert "-o model.architecture.pos_embed=learned" in said
    table = learned["backbone.pos_embed"]
    for size, grid in ((32, (2, 2)), ([48, 64], (3, 4))):
        learns = {**architecture, "pos_embed": "learned", "img_size": size}
        model = Classifier(architecture=learns, head=head)
        out, report = convert_state_dict(model, state | learned, layout="paddle")
        assert report.ok and report.naming == "PASSL", str(report)
        assert len(report.adapted) == (grid != (2, 2))
        wanted = resize_position_table(table, 1, (2, 2), grid)
        np.testing.assert_array_equal(out["backbone.pos_embed"], wanted)
        assert model.set_state_dict(out) == ([], [])
