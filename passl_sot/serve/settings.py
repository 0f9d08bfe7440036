"""The settings of a server. Those made by `_option` are options of `passl-sot serve`, with their limits."""

from dataclasses import dataclass, field
from typing import Any


def _option(default: float, words: str, *, least: float = 1) -> Any:
    return field(default=default, metadata={"help": words, "least": least})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is served, where, and within which limits.

    Attributes:
        source: The checkpoint or export folder, as `Predictor` takes it.
        arguments: Further arguments of `Predictor`: engine, precision.
        hosts: Names by which clients may call the server (the request's Host header); empty: any.
    """

    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    workers: int = _option(1, "processes, each with a copy of the model")
    max_batch: int = _option(32, "images or texts computed together")
    window_ms: float = _option(
        5.0, "milliseconds that an image or text waits for others to be computed with", least=0
    )
    max_queue: int = _option(
        256, "images or texts read, waiting or computed at one time; others get status 429"
    )
    max_request_mb: float = _option(32.0, "megabytes of one request", least=0.001)
    max_held_mb: float = _option(512.0, "megabytes of all requests at one time", least=0.001)
    max_files: int = _option(64, "images or texts of one request")
    max_characters: int = _option(100_000, "characters of one text")
    max_megapixels: float = _option(50.0, "million pixels of one image", least=0.001)
    timeout: float = _option(30.0, "seconds until a request must be received and answered", least=0.1)
    watch: float = _option(
        2.0, "seconds between looks for a newer model in its place; 0: only at SIGHUP", least=0
    )
