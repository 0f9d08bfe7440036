"""Backbones: images in, normalized tokens out."""

from collections.abc import Mapping
from typing import Any

from passl_sot.config import Registry
from passl_sot.modeling.backbones.base import Backbone

BACKBONES = Registry("backbone", "passl_sot.modeling.backbones")


def build_backbone(cfg: Mapping[str, Any]) -> Backbone:
    """Build the backbone that a node ``{name: ..., ...}`` describes.

    Args:
        cfg: The node: a mapping, such as ``get_config(...).model.architecture``; never changed.

    Raises:
        ConfigError: All its faults, at once.
    """
    return BACKBONES.build(cfg)
