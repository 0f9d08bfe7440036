"""Backbones refuse impossible numbers before anything is built."""

import inspect
import math

import pytest

from passl_sot.config import ConfigError
from passl_sot.modeling.backbones import BACKBONES


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
def test_out_of_range(key: str, value):
    takers = [name for name in BACKBONES.names() if key in inspect.signature(BACKBONES.get(name)).parameters]
    assert takers
    for name in takers:
        with pytest.raises(ConfigError) as caught:
            BACKBONES.build({"name": name, key: value})
        faults = [fault for fault in caught.value.faults if fault.path.startswith(f"backbone.{key}")]
        assert len(faults) == 1, name
        if isinstance(value, list) or key != "num_heads":
            assert faults[0].kind in ("value", "type"), name
