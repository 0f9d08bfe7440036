"""A user's own texts: a table, tables of training and validation in a folder, or folders of text files."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from passl_sot.config import zh
from passl_sot.data.datasets.folders import TRAIN, VAL, find_splits, first_of, held_out_count
from passl_sot.data.datasets.string_table import natural_key
from passl_sot.data.datasets.tables import FORMS, Layout, column_names, form_of, read_rows
from passl_sot.data.errors import DataError
from passl_sot.data.given import choose_columns

# Columns of labels by their usual names, those of GLUE among them.
_LABELS = ("label", "labels", "class", "category", "target", "gold_label", "score")
_VAL = (*VAL, "dev")


@dataclass(frozen=True)
class OwnTexts:
    """The splits of a user's texts.

    Attributes:
        train, val: The files or folders; the same where some of each class are to be held out.
        nodes: Of the dataset of each split, without tokenizer.
        class_names: Of training, in natural order; none where labels are numbers.
        counts: Texts of each class, with those that are held out.
        kind: "table" or "folder".
        noun: What they are.
    """

    train: str
    val: str
    nodes: dict[str, dict[str, Any]]
    class_names: list[str]
    counts: Sequence[int]
    kind: str
    noun: str = "text"

    @property
    def held_out(self) -> bool:
        """Whether validation texts are to be taken from those of training."""
        return self.train == self.val

    def count_items(self, at_most: int, val_share: float) -> int:
        """Texts to train on, without those held out; all are counted, as they have been read."""
        if not self.held_out:
            return sum(self.counts)
        return sum(count - held_out_count(count, val_share) for count in self.counts)


def find_texts(
    path: str, own: Mapping[str, Any], *, regression: bool = False, training: bool = True
) -> OwnTexts:
    """Finds the training and validation texts in a user's own file or folder.

    Three layouts: a table (CSV, TSV, JSONL); a folder with `train` and `val` (also valid, validation, dev,
    test) as tables; or folders of text files as `find_splits` has them. Where there are none for validation a
    fraction of each class is held out.

    Args:
        path: The file or folder.
        own: Names of columns, by the arguments of `TextTable`, that count where the table has them.
        regression: Whether labels are numbers.
        training: Otherwise the classes are a trained model's, of which the texts may lack some.

    Raises:
        DataError: It is missing, can't be read, or holds no such texts.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        return _of_tables(path, path, _columns(path, own, regression), training)
    tables = [name for name in os.listdir(path) if os.path.splitext(name)[1].lower() in FORMS]
    named = {os.path.splitext(name)[0]: os.path.join(path, name) for name in sorted(tables)}
    train = first_of(TRAIN, list(named))
    if train is not None:
        val = first_of(_VAL, list(named)) or train
        return _of_tables(named[train], named[val], _columns(named[train], own, regression), training)
    found = find_splits(path, "text")
    nodes = {
        "train": {"name": "TextFolder", "dataroot": found.train},
        "val": {"name": "TextFolder", "dataroot": found.val},
    }
    counts = list(found.class_counts())
    return OwnTexts(found.train, found.val, nodes, found.class_names, counts, "folder")


def _of_tables(train: str, val: str, columns: dict[str, Any], training: bool) -> OwnTexts:
    layout = Layout(
        form=form_of(train, None),
        text=columns["text"],
        second=columns.get("second"),
        label=columns["label"],
    )
    rows = read_rows(train, layout).rows
    counts = Counter(row.label.strip() for row in rows)
    names: list[str] = []
    if not columns.get("regression"):
        names = sorted(counts, key=natural_key)
    if training and names:
        columns["class_names"] = names
    if training and len(names) == 1:
        raise DataError(
            f"{train} has one label in its column {columns['label']!r}, {names[0]!r}, and a classifier needs "
            "two or more" + zh("one_label")
        )
    nodes = {
        "train": {"name": "TextTable", "file": train, **columns},
        "val": {"name": "TextTable", "file": val, **columns},
    }
    return OwnTexts(train, val, nodes, names, [counts[name] for name in names] or [len(rows)], "table")


def _columns(path: str, own: Mapping[str, Any], regression: bool) -> dict[str, Any]:
    """The arguments of `TextTable` that name columns."""
    form = form_of(path, None)
    names = column_names(path, form, quoting=form == "csv")
    text, *second = choose_columns(
        path,
        names,
        [name for name in (own.get("text"), own.get("second")) if name],
        "-o dataloader.train.dataset.text=A dataloader.val.dataset.text=A, of a pair also dataset.second=B",
    )
    label = next((name for name in (own.get("label"), *_LABELS) if name in names), None)
    if label is None:
        raise DataError(
            f"{path} has no column of labels of a usual name, such as 'label', but "
            f"{', '.join(map(repr, names))}: name it by "
            "-o dataloader.train.dataset.label=A dataloader.val.dataset.label=A" + zh("name_label")
        )
    found: dict[str, Any] = {"text": text, "label": label}
    if second:
        found["second"] = second[0]
    if regression:
        found["regression"] = True
    return found
