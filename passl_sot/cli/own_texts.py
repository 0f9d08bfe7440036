"""`--data PATH` of a model of texts, as overrides of its datasets."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from passl_sot.config import value_at
from passl_sot.data.own_texts import OwnTexts, find_texts

# Where datasets of texts have their place.
_PLACES = {"TextTable": "file", "TextFolder": "dataroot", "GLUE": "dataroot"}
_KEPT = ("max_length", "pad_to", "encoding")
_COLUMNS = ("text", "second", "label")
_DATASET = "dataloader.{}.dataset"
_OF_NUMBERS = ("pearson", "spearman")


def reads_texts(tree: Mapping[str, Any]) -> bool:
    """Whether a config's data are texts."""
    return value_at(tree, "dataloader.train.dataset.name") in _PLACES


def not_of_datasets(overrides: Sequence[str]) -> list[str]:
    """Overrides that don't change the datasets, which are about to be replaced."""
    return [text for text in overrides if ".dataset." not in text.partition("=")[0]]


def same_layout(tree: Mapping[str, Any], root: str, splits: Sequence[str]) -> list[str]:
    """The overrides that name a folder which holds GLUE's tasks, for a config that reads them; else none."""
    if value_at(tree, "dataloader.train.dataset.name") != "GLUE" or not os.path.isdir(root):
        return []
    return [f"{_DATASET.format(split)}.dataroot={_text(root)}" for split in splits]


def find(tree: Mapping[str, Any], root: str, overrides: Sequence[str], training: bool) -> OwnTexts:
    """As `find_texts`, with the columns that the user tells, or that the config has."""
    node = value_at(tree, _DATASET.format("train"))
    own = {key: node.get(key) for key in _COLUMNS}
    for text in overrides:
        path, _, value = text.partition("=")
        for key in _COLUMNS:
            if path.strip() == f"{_DATASET.format('train')}.{key}":
                own[key] = value.strip()
    regression = value_at(tree, "task.score") in _OF_NUMBERS
    return find_texts(root, own, regression=regression, training=training)


def datasets(tree: Mapping[str, Any], found: OwnTexts, held_out: bool, splits: Sequence[str]) -> list[str]:
    """The overrides that put the texts in place of the config's own, with its tokenizer."""
    added = []
    for split in splits:
        old = value_at(tree, _DATASET.format(split))
        node = {**found.nodes[split], **{key: old[key] for key in _KEPT if key in old}}
        node["tokenizer"] = old.get("tokenizer")
        if split == "val" and "train" in splits:
            node["tokenizer"] = "${dataloader.train.dataset.tokenizer}"
        if held_out:
            node["part"] = split
        added.append(f"{_DATASET.format(split)}={_text(node)}")
    return added


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
