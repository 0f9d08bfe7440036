"""The most confident errors of an evaluation, as a sheet of thumbnails or a table of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.config import UserError, zh
from passl_sot.data import LabelledImages, LabelledTexts
from passl_sot.metrics import CorrelationMeter, MultiLabelMeter
from passl_sot.tasks.base import Task
from passl_sot.tasks.labelled import RowMeter
from passl_sot.vis.page import Page
from passl_sot.vis.pixels import fitted
from passl_sot.vis.sheet import SIDE, Tile, save_sheet, save_texts

_SHOWN = 3  # classes of one item that are named, where it may have several


@dataclass(frozen=True)
class Mistakes:
    """Errors, the most confident first.

    Attributes:
        meaning: What counts as an error here, and by what it is placed.
        heads: What the two columns of `said` are.
        indices: The items' places in the dataset.
        said: For each item what is true and what was predicted.
        total: Errors in the whole set.
    """

    meaning: str
    heads: tuple[str, str]
    indices: list[int]
    said: list[tuple[str, str]]
    total: int


def save_mistakes(task: Task, meter: Any, val: Any, folder: Path, most: int) -> list[Path]:
    """Writes `mistakes.png` and `mistakes.html`.

    Args:
        task: The task.
        meter: Its meter of an evaluation, with rows, that was gathered.
        val: The dataset that was evaluated.
        folder: Where they go.
        most: How many errors are shown.

    Returns:
        The two files.

    Raises:
        UserError: The task keeps nothing of single items, or they are neither images nor texts.
    """
    if not isinstance(val, LabelledImages | LabelledTexts):
        raise UserError(f"--mistakes shows images and texts, not items of {type(val).__name__}")
    found = find_mistakes(task, meter, most)
    title = f"{len(found.indices)} of {found.total} errors among {meter.items} {task.words.items}"
    page = Page(f"Mistakes: {title}", found.meaning)
    picture = folder / "mistakes.png"
    if isinstance(val, LabelledImages):
        _show_images(found, val, page, picture, f"{title}\n{found.meaning}")
    else:
        _show_texts(found, val, page, picture, f"{title}\n{found.meaning}")
    page.save(folder / "mistakes.html")
    return [picture, folder / "mistakes.html"]


def find_mistakes(task: Any, meter: Any, most: int) -> Mistakes:
    """The `most` most confident errors that a meter has kept; a UserError where it keeps none."""
    if isinstance(meter, RowMeter):
        return _of_one_class(task.class_names, meter.rows, most)
    if isinstance(meter, MultiLabelMeter):
        return _of_several(task.class_names, meter, most)
    if isinstance(meter, CorrelationMeter):
        return _of_numbers(meter, most)
    raise UserError(
        f"{type(task).__name__} keeps no prediction of each item, so its mistakes can't be shown"
        + zh("no_mistakes_kept")
    )


def _of_one_class(names: Sequence[str], rows: np.ndarray, most: int) -> Mistakes:
    labels, predicted, probability, of_label = rows.T
    wrong = np.flatnonzero(labels != predicted)
    # Stable, so that several processes and packed copies list equal ones in the same order.
    worst = wrong[np.argsort(-probability[wrong], kind="stable")][:most]
    said = [
        (
            f"{names[int(labels[i])]} ({_percent(of_label[i])})",
            f"{names[int(predicted[i])]} ({_percent(probability[i])})",
        )
        for i in worst
    ]
    meaning = (
        "An error: the most probable class is not the true one; first those with the highest probability."
    )
    return Mistakes(meaning, ("true", "predicted"), worst.tolist(), said, len(wrong))


def _of_several(names: Sequence[str], meter: MultiLabelMeter, most: int) -> Mistakes:
    # Beyond 709 exp overflows in float64.
    probabilities = 1 / (1 + np.exp(-np.clip(meter.outputs, -700, 700)))
    true = meter.labels > 0
    predicted = meter.outputs > 0
    # How sure each wrong decision is, on a class that the image has or has not.
    sure = np.where(true != predicted, np.maximum(probabilities, 1 - probabilities), 0.0)
    highest = sure.max(axis=1)
    wrong = np.flatnonzero(highest)
    worst = wrong[np.argsort(-highest[wrong], kind="stable")][:most]

    def named(place: int, which: np.ndarray) -> str:
        classes = np.flatnonzero(which[place])
        classes = classes[np.argsort(-sure[place, classes], kind="stable")]
        shown = [f"{names[c]} ({_percent(probabilities[place, c])})" for c in classes[:_SHOWN]]
        return ", ".join(shown) + " ..." * (len(classes) > _SHOWN) or "none"

    said = [(named(i, true & ~predicted), named(i, predicted & ~true)) for i in worst]
    meaning = (
        "An error: an image with a class above 50 % that it hasn't, or one below that it has; first those "
        "with the surest such decision. Classes that are decided rightly are not named."
    )
    return Mistakes(meaning, ("missed", "wrongly predicted"), worst.tolist(), said, len(wrong))


def _of_numbers(meter: CorrelationMeter, most: int) -> Mistakes:
    distance = np.abs(meter.outputs - meter.labels)
    worst = np.argsort(-distance, kind="stable")[:most]
    said = [(f"{meter.labels[i]:g}", f"{meter.outputs[i]:.3f}") for i in worst]
    meaning = "Labels are numbers, which have no probability: first those that are furthest off."
    return Mistakes(meaning, ("true", "predicted"), worst.tolist(), said, int(np.count_nonzero(distance)))


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _show_images(found: Mistakes, val: LabelledImages, page: Page, picture: Path, title: str) -> None:
    page.section("Images", "Whole, as they are stored; the model may see a part.")
    # The stored image rather than the model's view: what is wrong may be what the crop left out.
    tiles = []
    for index, said in zip(found.indices, found.said, strict=True):
        words = [f"{head}: {text}" for head, text in zip(found.heads, said, strict=True)]
        tile = Tile(fitted(val.read(index), SIDE), [*words, val.paths[index]])
        tiles.append(tile)
        page.figure(tile.picture, "\n".join(tile.lines), width=max(tile.picture.shape[1], 130))
    save_sheet(picture, title, tiles)


def _show_texts(found: Mistakes, val: LabelledTexts, page: Page, picture: Path, title: str) -> None:
    items = []
    rows = []
    for index, said in zip(found.indices, found.said, strict=True):
        text = val.texts(index)
        shown = text if isinstance(text, str) else "\n⁄ ".join(text)
        rows.append([*said, shown, val.paths[index]])
        words = [f"{head}: {text}" for head, text in zip(found.heads, said, strict=True)]
        items.append(["   ".join(words), *shown.split("\n"), val.paths[index]])
    page.section("Texts")
    page.table([*found.heads, "text", "place"], rows)
    save_texts(picture, title, items)
