"""A program that Paddle will run, looked at before: an exported folder may come from a stranger."""

import json
from pathlib import Path
from typing import Any

from passl_sot.engines.base import EngineError

# Paddle's operators that read or write files by names in the program; no model needs them.
_OF_FILES = ("read_file", "load_combine", "save_combine", "tensorrt_engine")


def read_program(path: Path) -> dict[str, Any]:
    """An `inference.json`; an EngineError where running it would read or write other files."""

    def checked(node: dict[str, Any]) -> dict[str, Any]:
        # Such as "1.matmul" or "pd_op.matmul".
        name = str(node.get("#")).rpartition(".")[2]
        if name in _OF_FILES:
            raise EngineError(f"{path} is refused: its operator {name} reads or writes other files")
        return node

    return json.loads(path.read_text(encoding="utf-8"), object_hook=checked)
