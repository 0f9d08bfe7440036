"""Backbones refuse impossible numbers before anything is built."""

import math

import pytest

from passl_sot.config.signature import Signature
from passl_sot.modeling.backbones import BACKBONES


@pytest.mark.parametrize("name", BACKBONES.names())
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mlp_ratio", 0),
        ("mlp_ratio", math.inf),
        ("mlp_ratio", math.nan),
        ("drop_rate", 1.0),
        ("attn_drop_rate", -0.1),
        ("drop_path_rate", math.nan),
        ("in_chans", 0),
        ("img_size", 0),
        ("num_heads", 0),
        ("num_heads", [2, 0]),
        ("depths", [2, 0]),
    ],
)
def test_out_of_range(name: str, key: str, value):
    if key not in Signature.of(BACKBONES.get(name)).hints:
        pytest.skip(f"{name} has no {key}")
    faults = [f for f in BACKBONES.check({"name": name, key: value}) if f.path.startswith(f"backbone.{key}")]
    assert len(faults) == 1
    if isinstance(value, list) or key != "num_heads":
        assert faults[0].kind in ("value", "type")
