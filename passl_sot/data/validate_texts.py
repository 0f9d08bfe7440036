"""Checks of texts before a run: all faults at once, each with its cure."""

import logging

import numpy as np

from passl_sot.config import zh
from passl_sot.data.datasets.texts import LabelledTexts
from passl_sot.data.errors import DataError
from passl_sot.data.validate import check_classes

_LOGGER = logging.getLogger("passl_sot.data")
# A text of that many unknown tokens says little: published vocabularies know nearly all of their language.
_MOST_UNKNOWN = 0.2


def check_texts(train: LabelledTexts, val: LabelledTexts, num_classes: int | None = None) -> list[str]:
    """Checks the texts of a run against each other and against the model's head; see `check_data`.

    Faulty lines and files are told when a dataset is made. The result are warnings, which have been logged.

    Raises:
        DataError: There are faults; it lists them all.
    """
    splits = [("train", train), ("val", val)]
    faults = [
        f"{name}: {dataset.path(0)} and the others have no labels" + zh("texts_without_labels")
        for name, dataset in splits
        if dataset.labels is None
    ]
    faults += _differences(train, val)
    warnings = _shared_texts(train, val)
    if not (train.regression or val.regression or faults):
        of_classes, more = check_classes(train, val, num_classes)
        faults += of_classes
        warnings += more
    for name, dataset in splits:
        if dataset.num_cut == len(dataset):
            faults.append(
                f"{name}: all texts are longer than max_length, {dataset.max_length} tokens: raise it"
                + zh("texts_cut")
            )
        unknown = dataset.num_unknown / dataset.lengths.sum()
        if unknown > _MOST_UNKNOWN:
            warnings.append(
                f"{name}: {100 * unknown:.0f} % of the tokens aren't in the vocabulary: is it one of another "
                "language, or of lower-case texts (dataset.tokenizer.lower_case)?" + zh("many_unknown_tokens")
            )
    for warning in warnings:
        _LOGGER.warning("%s", warning)
    if faults:
        raise DataError(faults)
    return warnings


def _differences(train: LabelledTexts, val: LabelledTexts) -> list[str]:
    """What the two splits must have in common and don't."""
    faults = []
    if train.regression != val.regression:
        faults.append("regression is set for one of train and val: write it in both")
    if train.pairs != val.pairs:
        faults.append("one of train and val has two texts an item, the other one: name `second` in both")
    if not np.array_equal(train.tokenizer.digest(), val.tokenizer.digest()):
        faults.append(
            "train and val have different tokenizers or max_length: write tokenizer: "
            "${dataloader.train.dataset.tokenizer} and max_length: ${dataloader.train.dataset.max_length}"
        )
    return [fault + zh("splits_must_agree") for fault in faults]


def _shared_texts(train: LabelledTexts, val: LabelledTexts) -> list[str]:
    known = {val.texts(i) for i in range(len(val))}
    shared = [i for i in range(len(train)) if train.texts(i) in known]
    if not shared:
        return []
    return [
        f"{len(shared)} texts of train are in val too, such as {train.path(shared[0])}: validation scores "
        "will be too good" + zh("shared_texts")
    ]
