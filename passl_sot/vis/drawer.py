"""Draws what models see of items into PNG files and a page, and writes the table of how far to trust it."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.metrics.classification import write_table
from passl_sot.tasks.text_classification import texts_of
from passl_sot.vis import overlay, words
from passl_sot.vis.maps import AREAS, Seen, View, choose_classes, see
from passl_sot.vis.overlay import Caption, Panel
from passl_sot.vis.page import Page, png
from passl_sot.vis.relevance import upsample
from passl_sot.vis.subject import Read, read_items
from passl_sot.vis.words import Sentence

_TRUST = (
    "Insertion: the class's probability while a blurred image, or a text of hidden words, is filled in the "
    "order of the map, as the area below that curve; higher is better. Deletion: the same while the input is "
    "emptied; lower is better. "
    "Beside each that of a random order; a map that isn't better says nothing."
)
_IMAGES = (
    "Blue is where the image speaks least for the class, red where most; each map has a scale of its own, "
    "from its least to its greatest value. The image is what the model sees, as cropped and resized for it."
)
_WORDS = (
    "A word is as relevant as the most relevant of its tokens; the colours run linearly from the weakest "
    "word of a text to the strongest. Special tokens aren't shown; what has no box was cut off."
)
_SHOWN = 236  # pixels of a picture on the page: four stand side by side


def draw_maps(
    views: Sequence[View],
    items: Sequence[Any],
    folder: Path,
    page: Page,
    *,
    batch_size: int = 8,
    asked: int | None = None,
    top_k: int = 0,
    steps: int = 0,
) -> list[str]:
    """Draws all items.

    Args:
        views: What is shown of each, side by side.
        items: As the models' task takes them.
        folder: Gets a PNG of each item, and the tables.
        page: Gets means over all items, and a section of each.
        batch_size: How many are computed at once.
        asked: As of `choose_classes`; so is `top_k`.
        steps: As of `see`.

    Returns:
        A line for each item that can't be read.
    """
    errors: list[str] = []
    rows: list[dict[str, Any]] = []
    sections = Page("")
    subjects = list({view.subject.name: view.subject for view in views}.values())
    for batch in read_items(subjects, items, batch_size, errors):
        classes = choose_classes(subjects[0], batch, asked=asked, top_k=top_k)
        seen = [[see(view, batch, chosen, steps) for view in views] for chosen in classes.T]
        for i, read in enumerate(batch):
            by_class = {int(classes[i, k]): [row[i] for row in rows] for k, rows in enumerate(seen)}
            card = _Card(read, by_class)
            card.save(folder)
            card.write(sections)
            rows += card.rows
    if rows and AREAS[0] in rows[0]:
        _write_means(rows, folder, page)
    _write_legend(views, page)
    page.extend(sections)
    if errors:
        page.section("Unreadable", "\n".join(errors))
    return errors


def _write_legend(views: Sequence[View], page: Page) -> None:
    """Says how the pictures are to be read."""
    methods = ", ".join(dict.fromkeys(view.method for view in views))
    if views[0].subject.takes_texts:
        page.section("How to read the words", f"By {methods}. {_WORDS}")
        page.markup(words.bar_markup())
    else:
        page.section("How to read the maps", f"By {methods}. {_IMAGES}")


class _Card:
    """An item with what was seen of it, by class."""

    def __init__(self, read: Read, by_class: Mapping[int, Sequence[Seen]]):
        first = next(iter(by_class.values()))[0].view.subject
        self._read = read
        self._first = first
        self._label = first.label_of(read.item)
        make: Any = self._panels
        self._sheet: Any = overlay.sheet
        if first.takes_texts:
            make = self._sentences
            self._sheet = words.sheet
        self.rows = [self._row(index, s) for index, seen in by_class.items() for s in seen]
        self._drawn = {self._about(index): make(seen) for index, seen in by_class.items()}

    def save(self, folder: Path) -> None:
        """Draws the PNG."""
        figure = self._sheet(textwrap.fill(self._read.title, 100), self._drawn)
        (folder / f"{self._read.stem}.png").write_bytes(png(figure))

    def write(self, page: Page) -> None:
        """Writes a section."""
        page.section(self._read.title)
        for about, shown in self._drawn.items():
            page.text(about)
            for one in shown:
                if isinstance(one, Sentence):
                    page.markup(words.markup(one))
                    continue
                caption = one.caption
                said = "\n".join(filter(None, (caption.name, caption.verdict, caption.note)))
                page.figure(overlay.jpeg(one.picture), said, right=caption.right, width=_SHOWN)

    def _about(self, index: int) -> str:
        if self._first.predicts_numbers:
            return "What speaks for a greater number"
        name = self._first.class_names[index]
        about = f'What speaks for "{name}"'
        if self._first.class_names.count(name) > 1:
            about += f" ({index})"
        if self._label == index:
            about += " (the label)"
        return about

    def _panels(self, seen: Sequence[Seen]) -> list[Panel]:
        first = self._first.picture(self._read.samples[self._first.name])
        panels = [Panel(overlay.fitted(first), Caption("image", "as the model sees it"))]
        for s in seen:
            subject = s.view.subject
            picture = overlay.fitted(subject.picture(self._read.samples[subject.name]))
            values = overlay.scaled(upsample(s.map[None], picture.shape[:2])[0])
            panels.append(Panel(overlay.overlay(picture, values), self._caption(s)))
        return panels

    def _sentences(self, seen: Sequence[Seen]) -> list[Sentence]:
        texts = texts_of(self._read.item)
        sentences = []
        for s in seen:
            given: Any = texts if len(texts) == 2 else texts[0]
            places = s.view.subject.task.tokenizer.places(given)
            sentences.append(Sentence(words.pieces_of(texts, places, s.map), self._caption(s)))
        return sentences

    def _caption(self, seen: Seen) -> Caption:
        task = seen.view.subject.task
        verdict = f"{seen.probability:.3f}"
        if not seen.view.subject.predicts_numbers:
            verdict = f"{task.class_names[seen.predicted]} {100 * seen.probability:.1f}\u00a0%"
        right = None
        if self._label is not None:
            right = seen.predicted == self._label
        areas = seen.areas
        note = "\n".join(
            f"{name} {areas[name]:.2f} (random {areas[f'random_{name}']:.2f})"
            for name in ("insertion", "deletion")
            if areas
        )
        return Caption(seen.view.name, verdict, right, note)

    def _row(self, index: int, seen: Seen) -> dict[str, Any]:
        names = self._first.class_names
        return {
            "item": self._read.name,
            "view": seen.view.name,
            "class": index,
            "name": names[index],
            "label": self._label,
            "predicted": seen.predicted,
            "predicted_name": names[seen.predicted],
            "probability": seen.probability,
            **seen.areas,
        }


def _write_means(rows: Sequence[Mapping[str, Any]], folder: Path, page: Page) -> None:
    """Writes `faithfulness.csv` and `.json`, and the means of each view."""
    means = []
    for view in dict.fromkeys(row["view"] for row in rows):
        own = [row for row in rows if row["view"] == view]
        values = {name: np.array([row[name] for row in own]) for name in AREAS}
        mean: dict[str, Any] = {"view": view, "maps": len(own)}
        mean |= {name: float(value.mean()) for name, value in values.items()}
        mean["insertion_better"] = float((values["insertion"] > values["random_insertion"]).mean())
        mean["deletion_better"] = float((values["deletion"] < values["random_deletion"]).mean())
        means.append(mean)
    heads = [
        "",
        "maps",
        "insertion",
        "of a random map",
        "better in",
        "deletion",
        "of a random map",
        "better in",
    ]
    cells = [
        [
            *(m[key] for key in ("view", "maps", "insertion", "random_insertion")),
            f"{100 * m['insertion_better']:.0f}\u00a0%",
            *(m[key] for key in ("deletion", "random_deletion")),
            f"{100 * m['deletion_better']:.0f}\u00a0%",
        ]
        for m in means
    ]
    page.section("How far the maps can be trusted", _TRUST)
    page.table(heads, cells)
    text = json.dumps({"means": means, "maps": rows}, ensure_ascii=False, indent=1)
    (folder / "faithfulness.json").write_text(text + "\n", encoding="utf-8")
    write_table(folder / "faithfulness.csv", list(rows[0]), [list(row.values()) for row in rows])
