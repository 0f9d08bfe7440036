"""The configuration language: YAML with inheritance and references, registries, and checks by signature."""

from passl_sot.config.errors import ConfigError, Fault
from passl_sot.config.loader import get_config, parse_config
from passl_sot.config.registry import Registry, RegistryError
from passl_sot.config.tree import Config

__all__ = ["Config", "ConfigError", "Fault", "Registry", "RegistryError", "get_config", "parse_config"]
