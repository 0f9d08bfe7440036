"""Labelled texts from tables: those of GLUE as they are published, and a user's own."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from passl_sot.config import Count, Range, zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.folders import VAL_SHARE, choose_part
from passl_sot.data.datasets.labelled_items import nearest
from passl_sot.data.datasets.list_files import read_class_names
from passl_sot.data.datasets.string_table import StringTable, natural_key
from passl_sot.data.datasets.tables import Form, Layout, TextEncoding, form_of, read_rows
from passl_sot.data.datasets.texts import LabelledTexts
from passl_sot.data.errors import DataError
from passl_sot.data.token_files import TokenizerSection
from passl_sot.data.tokens import Text

_LOGGER = logging.getLogger("passl_sot.data")


class _TableOfTexts(LabelledTexts):
    """Texts of one file.

    Args:
        file: The file.
        layout: Its columns.
        class_names: Of the labels in order; of a regression the name of what is measured; None where the
            labels that are found count, in natural order.
        regression: Labels are numbers to predict.
        part, val_share: As of `TextTable`.
    """

    def __init__(
        self,
        *,
        file: str,
        layout: Layout,
        class_names: Sequence[str] | None,
        regression: bool,
        tokenizer: TokenizerSection,
        max_length: int,
        pad_to: int | None,
        part: str = "all",
        val_share: float = VAL_SHARE,
    ):
        root, name = os.path.split(file)
        known = None if regression else class_names

        def label_fault(label: str) -> str:
            label = label.strip()
            if not label:
                return "no label" + zh("label_missing")
            if regression and not _is_number(label):
                return f"label {label!r} is no number" + zh("label_no_number")
            if known is not None and label not in known:
                return f"label {label!r} {nearest(label, known)}" + zh("label_unknown")
            return ""

        found = read_rows(file, layout, label_fault)
        if found.left_out:
            _LOGGER.warning(
                "%d lines of %s have too few columns and are left out, as by the authors' code"
                + zh("lines_left_out"),
                found.left_out,
                file,
            )
        labels: np.ndarray | None = None
        if layout.label is not None and regression:
            labels = np.array([float(row.label) for row in found.rows], np.float32)
        elif layout.label is not None:
            names = [row.label.strip() for row in found.rows]
            if class_names is None:
                class_names = sorted(set(names), key=natural_key)
            number = {name: label for label, name in enumerate(class_names)}
            labels = np.array([number[name] for name in names], np.int64)
        texts: list[Text] = [row.text for row in found.rows]
        if layout.second is not None:
            texts = [(row.text, row.second) for row in found.rows]
        kept = np.arange(len(texts))
        if part != "all":
            kept = _part_of(texts, None if regression else labels, class_names or [], part, val_share)
        super().__init__(
            root=root,
            paths=StringTable(f"{name}:{found.lines[i]}" for i in kept),
            texts=[texts[i] for i in kept],
            labels=None if labels is None else labels[kept],
            class_names=class_names or [],
            tokenizer=tokenizer,
            max_length=max_length,
            pad_to=pad_to,
            regression=regression,
        )


def _part_of(
    texts: Sequence[Text], labels: np.ndarray | None, class_names: Sequence[str], part: str, val_share: float
) -> np.ndarray:
    """The places of the texts of a part; of all texts together where they have no classes."""
    if labels is None:
        labels = np.zeros(len(texts), np.int64)
        class_names = ["all texts"]
    # By the texts, not their lines, so that others may be added anywhere, and equal ones are on one side.
    keys = [text if isinstance(text, str) else "\0".join(text) for text in texts]
    return choose_part(keys, labels, class_names, part, val_share)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@DATASETS.register()
class TextTable(_TableOfTexts):
    """Texts, or pairs of them, in a table with a line of names: CSV, TSV, or JSON with an object a line.

    Other arguments are those of `LabelledTexts`.

    Args:
        file: The file, such as `data/train.csv`.
        text: Name of the column of texts.
        second: Of second texts; null where there are none.
        label: Of labels; null where there are none.
        format: "csv", "tsv" or "jsonl"; by default by the file's ending.
        quoting: Whether cells of CSV and TSV may stand in quotes; by default true for CSV alone.
        encoding: Of the file.
        class_names: The labels in the order in which they are numbered, or a file with one per line, as for
            `ListFile`. By default those that are found, in natural order (2 before 10).
        regression: Labels are numbers to predict rather than names of classes.
        part: "all" texts; or, for a file without a second one for validation, those for "train" or for "val",
            by a rule that depends on the texts alone.
        val_share: Fraction of each class that is for "val".
    """

    def __init__(
        self,
        *,
        file: str,
        tokenizer: TokenizerSection,
        max_length: Count = 128,
        pad_to: Count | None = None,
        text: str = "text",
        second: str | None = None,
        label: str | None = "label",
        format: Form | None = None,
        quoting: bool | None = None,
        encoding: TextEncoding = "utf-8",
        class_names: list[str] | str | None = None,
        regression: bool = False,
        part: Literal["all", "train", "val"] = "all",
        val_share: Annotated[float, Range(above=0, below=1)] = VAL_SHARE,
    ):
        file = os.path.expanduser(file)
        names = class_names
        if isinstance(names, str):
            names = read_class_names(os.path.expanduser(names))
        if regression:
            if names is not None:
                raise ValueError("class_names and regression: true exclude each other: a number has no class")
            names = [label or "value"]
        if names is not None and len(set(names)) < len(names):
            raise ValueError(f"class_names gives a name more than once: {', '.join(names)}")
        super().__init__(
            file=file,
            layout=Layout(
                form=form_of(file, format),
                text=text,
                second=second,
                label=label,
                quoting=quoting,
                encoding=encoding,
            ),
            class_names=names,
            regression=regression,
            tokenizer=tokenizer,
            max_length=max_length,
            pad_to=pad_to,
            part=part,
            val_share=val_share,
        )


@dataclass(frozen=True)
class _Glue:
    """Columns of a task, and its labels in order; of a regression none."""

    text: str
    second: str | None
    label: str
    classes: tuple[str, ...] = ("0", "1")


_ENTAILED = ("entailment", "not_entailment")
_TASKS = {
    "CoLA": _Glue("sentence", None, "label"),
    "SST-2": _Glue("sentence", None, "label"),
    "MRPC": _Glue("#1 String", "#2 String", "Quality"),
    "STS-B": _Glue("sentence1", "sentence2", "score", ()),
    "QQP": _Glue("question1", "question2", "is_duplicate"),
    "MNLI": _Glue("sentence1", "sentence2", "gold_label", ("contradiction", "entailment", "neutral")),
    "QNLI": _Glue("question", "sentence", "label", _ENTAILED),
    "RTE": _Glue("sentence1", "sentence2", "label", _ENTAILED),
    "WNLI": _Glue("sentence1", "sentence2", "label"),
}
# CoLA's sets with labels have no line of names.
_COLA_TEXT = 3
_COLA_LABEL = 1


@DATASETS.register()
class GLUE(_TableOfTexts):
    """A task of GLUE (Wang et al., "GLUE", ICLR 2019) from its published TSV files.

    Classes are numbered in the order of the authors' code, STS-B is a regression, test files have no labels.
    Other arguments are those of `LabelledTexts`.

    Args:
        task: As its folder is called.
        dataroot: The folder with the tasks' folders, such as `data/glue` with `data/glue/RTE/train.tsv`; or
            that of the task.
        split: "dev" is the set for validation. MNLI has two, and two for tests: "dev" and "test" are the
            matched ones, of the genres that training has, others the mismatched ones.
    """

    def __init__(
        self,
        *,
        task: Literal["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"],
        dataroot: str,
        split: Literal["train", "dev", "dev_mismatched", "test", "test_mismatched"],
        tokenizer: TokenizerSection,
        max_length: Count = 128,
        pad_to: Count | None = None,
    ):
        if task != "MNLI" and split.endswith("_mismatched"):
            raise ValueError(f"split: {split} is one of MNLI; {task} has train, dev and test")
        glue = _TASKS[task]
        layout = Layout(
            form="tsv",
            text=glue.text,
            second=glue.second,
            label=None if split.startswith("test") else glue.label,
            quoting=False,
            # As the authors' code passes over lines of QQP that are broken.
            loose="skip" if task == "QQP" else "longer",
        )
        if task == "CoLA" and layout.label is not None:
            layout.text = _COLA_TEXT
            layout.label = _COLA_LABEL
        super().__init__(
            file=_find(os.path.expanduser(dataroot), task, split),
            layout=layout,
            class_names=glue.classes or [glue.label],
            regression=not glue.classes,
            tokenizer=tokenizer,
            max_length=max_length,
            pad_to=pad_to,
        )


def _find(root: str, task: str, split: str) -> str:
    name = f"{split}.tsv"
    if task == "MNLI" and split in ("dev", "test"):
        name = f"{split}_matched.tsv"
    choices = [os.path.join(root, task, name), os.path.join(root, name)]
    found = next((path for path in choices if os.path.isfile(path)), None)
    if found is None:
        raise DataError(
            f"there is no {choices[0]}: dataroot is the folder with the folders of GLUE's tasks, which its "
            "authors give out as archives of TSV files" + zh("glue_missing", file=choices[0])
        )
    return found
