"""Key rules: how the weights of each family are named and laid out in other projects' files."""

from typing import Any

from passl_sot.config import Registry
from passl_sot.weights.rules.base import KeyRules, adapt_channels

__all__ = ["KEY_RULES", "KeyRules", "adapt_channels", "key_rules"]

KEY_RULES = Registry("key rule", "passl_sot.weights.rules")


def key_rules(backbone: Any) -> KeyRules:
    """The rules for a backbone: those named as the nearest class in its line of bases that has some."""
    # A user's class that extends a family keeps the family's names.
    for cls in type(backbone).__mro__:
        rules = KEY_RULES.find(cls.__name__)
        if rules is not None:
            return rules(backbone=backbone)
    return KeyRules(backbone=backbone)
