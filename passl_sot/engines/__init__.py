"""Programs that compute an exported model: one call each, arrays to an array."""

from passl_sot.engines.base import ENGINES, Engine, EngineError, open_engine

__all__ = ["ENGINES", "Engine", "EngineError", "open_engine"]
