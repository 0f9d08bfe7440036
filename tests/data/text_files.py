"""Files of small tokenizers and tables of texts, for the tests of the data layer."""

from __future__ import annotations

import json
from pathlib import Path

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "tokens.json").read_text("utf-8"))


def write_vocab(folder: Path) -> dict:
    """vocab.txt of BERT; gives the section of a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(FIXTURE["files"]["vocab.txt"]) + "\n", "utf-8")
    return {"format": "wordpiece", "path": str(folder)}


def write_bpe(folder: Path, kind: str, names: tuple[str, str] = ("vocab.json", "merges.txt")) -> dict:
    """The two files of a "gpt" or "roberta"; gives the section of a tokenizer."""
    files = FIXTURE["files"][kind]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {token: number for number, token in enumerate(files["tokens"])}
    (folder / names[0]).write_text(json.dumps(numbers), "utf-8")
    (folder / names[1]).write_text("\n".join(["#version: 0.2", *files["merges"]]) + "\n", "utf-8")
    return {"format": "gpt" if kind == "gpt" else "bpe", "path": str(folder)}
