"""Blocks written once and shared by every family of models."""

from passl_sot.utils.require import require_paddle

require_paddle()
