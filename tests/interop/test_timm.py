"""timm's names where they differ from the official ones, as its models of 2026 (commit aa4b585) have them."""

import re

import numpy as np
import paddle
import pytest

from passl_sot.interop import convert_state_dict, export_state_dict
from passl_sot.modeling.classifier import Classifier

SWIN = {"name": "Swin", "img_size": 32, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4]}
SWIN["window_size"] = 4
MEAN = {"name": "LinearHead", "num_classes": 5, "in_channels": 32, "pool": "mean", "num_prefix_tokens": 0}
PIT = {"name": "PiT", "img_size": 64, "head_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4]}
TOKEN = {"name": "LinearHead", "num_classes": 5, "in_channels": 32}
TWO = {"name": "DistilledHead", "num_classes": 5, "in_channels": 32}

# Architecture, head, (official name, timm's name) patterns, and some of the names that timm has.
CASES = {
    "Swin": (
        SWIN, MEAN, [(r"^layers\.(\d)\.downsample", 1, "layers.{}.downsample"), (r"^head", 0, "head.fc")],
        ["layers.1.downsample.norm.weight", "layers.2.downsample.reduction.weight", "head.fc.bias"], "timm",
    ),
    "PiT": (
        PIT, TOKEN, [(r"^pools\.(\d)\.", 1, "transformers.{}.pool.")],
        ["transformers.1.pool.conv.weight", "transformers.2.pool.fc.bias", "head.weight"], "timm",
    ),
    "PiT distilled": (
        {**PIT, "distilled": True}, TWO, [(r"^pools\.(\d)\.", 1, "transformers.{}.pool.")],
        ["transformers.1.pool.conv.weight", "head.weight", "head_dist.bias"], "timm",
    ),
    "PiT of older releases": (
        PIT, TOKEN, [(r"^pools\.(\d)\.", 0, "transformers.{}.pool.")],
        ["transformers.0.pool.conv.weight", "transformers.1.pool.fc.bias", "head.bias"], "timm (older)",
    ),
}  # fmt: skip


def timm_name(name: str, changes: list) -> str:
    for pattern, shift, new in changes:
        name = re.sub(pattern, lambda m, n=new, s=shift: n.format(int(m[1]) + s if m.groups() else ""), name)
    return name


@pytest.mark.parametrize("case", CASES)
def test_names(case):
    architecture, head, changes, some, naming = CASES[case]
    paddle.seed(0)
    model = Classifier(architecture=architecture, head=head)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    official = export_state_dict(model, arrays)
    tables = ("attn_mask", "relative_position_index")  # which today's timm doesn't save
    state = {timm_name(n, changes): value for n, value in official.items() if not n.endswith(tables)}
    assert set(some) <= state.keys() and set(some) - official.keys()
    out, report = convert_state_dict(model, state)
    assert report.ok, str(report)
    assert report.naming == naming and out.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(out[name], value, err_msg=name)
