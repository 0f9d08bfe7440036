"""Backbones: images in, normalized tokens out."""

from collections.abc import Mapping
from typing import Any

from passl_sot.config import Registry
from passl_sot.modeling.backbones.base import Backbone

BACKBONES = Registry("backbone", "passl_sot.modeling.backbones")


def build_backbone(cfg: Mapping[str, Any]) -> Backbone:
    """Build the backbone that a node ``{name: ..., ...}`` describes; a ConfigError lists all its faults."""
    return BACKBONES.build(cfg)
