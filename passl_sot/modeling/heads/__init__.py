"""Heads: tokens in, logits out. A head owns its pooling."""

from collections.abc import Mapping
from typing import Any

from passl_sot.config import Registry
from passl_sot.modeling.heads.base import Head

HEADS = Registry("head", "passl_sot.modeling.heads")


def build_head(cfg: Mapping[str, Any]) -> Head:
    """Build the head that a node ``{name: ..., ...}`` describes.

    Args:
        cfg: The node: a mapping, such as ``get_config(...).model.head``; never changed.

    Raises:
        ConfigError: All its faults, at once.
    """
    return HEADS.build(cfg)
