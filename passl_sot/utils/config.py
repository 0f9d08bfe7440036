"""PASSL's spelling: `from passl_sot.utils.config import get_config`."""

from passl_sot.config import Config, ConfigError, get_config

__all__ = ["Config", "ConfigError", "get_config"]
