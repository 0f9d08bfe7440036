"""Trained models as they are looked into: with their task, which reads inputs, and the pictures they see."""

import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl_sot.config import UserError, did_you_mean, nearest
from passl_sot.data import ItemError
from passl_sot.modeling.classifier import Classifier
from passl_sot.tasks.base import path_of
from passl_sot.tasks.text_classification import texts_of
from passl_sot.utils.logger import progress_bar
from passl_sot.vis.pixels import as_picture, viewable


class VisualizeError(UserError, ValueError):
    """What is asked for can't be drawn: no such class, part or method; a checkpoint of another kind."""


@dataclass(frozen=True)
class Subject:
    """A model to look into.

    Attributes:
        name: What it is called, unlike any other beside it.
        model: It, in evaluation mode.
        task: What it was trained for.
        meta: Its checkpoint's header.
    """

    name: str
    model: Classifier
    task: Any
    meta: Mapping[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Of its classes, by number."""
        return self.task.class_names

    @property
    def takes_texts(self) -> bool:
        """Whether it takes texts rather than images."""
        return self.task.takes_texts

    @property
    def predicts_numbers(self) -> bool:
        """Whether its labels are numbers rather than classes."""
        return getattr(self.task, "regression", False)

    def read(self, item: Any) -> dict[str, Any]:
        """An item as a sample; an ItemError says why it can't be read."""
        return self.task.read(item)

    def inputs(self, samples: Sequence[Mapping[str, Any]]) -> tuple[paddle.Tensor, ...]:
        """Samples as the arguments of the model's call."""
        batch = self.task.collate(samples)
        return tuple(paddle.to_tensor(array) for array in self.task.inputs(batch))

    def picture(self, sample: Mapping[str, Any]) -> np.ndarray:
        """The image that the model sees, as cropped and resized for it: uint8 [H, W, 3].

        Of other channels than three, one is shown as gray, of several the mean.
        """
        return as_picture(viewable(self.task.transforms.transforms, sample["image"]))

    def find_class(self, asked: str) -> int:
        """The number of a class that is asked for by its name, its id, a part of its name, or its number.

        Raises:
            VisualizeError: There is none, or several are called so; says which is near.
        """
        names = self.class_names
        known = {} if self.meta.get("classes_unnamed") else {name: i for i, name in enumerate(names)}
        ids = self.meta.get("class_ids") or ()
        # Names first: a class may be called "7" and be the third.
        numbers = {str(i): i for i in range(len(names))}
        for exact in (known, {name: i for i, name in enumerate(ids)}, numbers):
            if asked in exact:
                return exact[asked]
        if asked.lstrip("-").isdecimal():
            raise VisualizeError(
                f"{self.name} has {len(names)} classes: give a number from 0 to {len(names) - 1}"
            )
        if not known:
            raise VisualizeError(
                f"{self.name} doesn't know what its classes are called, so there is no {asked!r}: give a "
                f"number from 0 to {len(names) - 1}"
            )
        # ImageNet's are called as "tench, Tinca tinca".
        parts = {name: [part.strip() for part in name.split(",")] for name in known}
        found = [
            i for name, i in known.items() if asked.casefold() in map(str.casefold, (name, *parts[name]))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(f"{names[i]!r} ({i})" for i in found[:5])
            raise VisualizeError(f"{asked!r} may be {several}: give the number")
        near = nearest(asked, [*known, *itertools.chain(*parts.values())])
        raise VisualizeError(f"{self.name} has no class {asked!r}{did_you_mean(near)}")

    def label_of(self, item: Any) -> int | None:
        """The class that a file's folder is called by; None where it isn't a class's name."""
        if self.takes_texts or self.task.several or not isinstance(item, str | Path):
            return None
        folder = Path(item).resolve().parent.name
        for names in (self.class_names, self.meta.get("class_ids") or ()):
            if folder in names:
                return list(names).index(folder)
        return None


@dataclass(frozen=True)
class Read:
    """An item as each of the subjects takes it.

    Attributes:
        number: Its number among the items, from 0.
        item: As the user gave it.
        name: Its path, or the texts themselves.
        stem: What its files are called by.
        samples: By the names of the subjects.
    """

    number: int
    item: Any
    name: str
    stem: str
    samples: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Its number, from 1, and its name."""
        return f"{self.number + 1}. {textwrap.shorten(self.name, 200, placeholder=' …')}"


def file_name(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text)[:40]


def read_items(
    subjects: Sequence[Subject], items: Sequence[Any], batch_size: int, errors: list[str]
) -> Iterator[list[Read]]:
    """Items in batches; of those that can't be read `errors` gets a line each.

    A progress bar is shown meanwhile.

    Args:
        subjects: Whose tasks read them.
        items: The items.
        batch_size: Items of a batch; unreadable ones are missing.
        errors: Filled.
    """
    takes_texts = subjects[0].takes_texts
    with progress_bar(total=len(items), desc="visualize") as bar:
        for start in range(0, len(items), batch_size):
            batch = []
            part = items[start : start + batch_size]
            for number, item in enumerate(part, start):
                try:
                    samples = {subject.name: subject.read(item) for subject in subjects}
                    name = stem = " | ".join(texts_of(item)) if takes_texts else path_of(item)
                    if not takes_texts:
                        stem = Path(name).stem
                    batch.append(Read(number, item, name, f"{number + 1:03}_{file_name(stem)}", samples))
                except ItemError as error:
                    errors.append(str(error))
            if batch:
                yield batch
            bar.update(len(part))


def check_alike(subjects: Sequence[Subject]) -> None:
    """Sees that models can be shown side by side.

    Raises:
        VisualizeError: They take different inputs, or know different classes.
    """
    first = subjects[0]
    for other in subjects[1:]:
        if other.takes_texts != first.takes_texts:
            raise VisualizeError(
                f"{first.name} is for {first.task.words.items}, {other.name} for {other.task.words.items}: "
                "maps of both can't stand side by side"
            )
        if other.class_names != first.class_names:
            raise VisualizeError(
                f"{first.name} and {other.name} were trained on different classes ({first.class_names[:4]}, "
                f"{other.class_names[:4]}): maps of one class can't stand side by side"
            )
