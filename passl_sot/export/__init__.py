"""A model for other programs: graphs, and the card that says how to use them."""

from passl_sot.export.card import read_card
from passl_sot.export.folder import export_model

__all__ = ["export_model", "read_card"]
