"""`inference.yml`: how PaddleX prepares images and names classes, and below `passl_sot` our own card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from passl_sot.engines.base import STEM

FILE = f"{STEM}.yml"
OURS = "passl_sot"


def write_card(folder: Path, meta: Mapping[str, Any]) -> None:
    """Writes the card of a model whose checkpoint has the header `meta`."""
    kept = {key: meta[key] for key in meta if key != "data"}
    text = yaml.safe_dump({OURS: kept}, allow_unicode=True, sort_keys=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """The header of the checkpoint from which a folder was exported."""
    return yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))[OURS]
