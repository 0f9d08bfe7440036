"""Draws what models see of items into PNG files and a page, and writes the table of how far to trust it."""

import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.metrics.classification import write_table
from passl_sot.vis import overlay, words
from passl_sot.vis.curves import WIDE, as_png, charts_of, mean_charts
from passl_sot.vis.faithfulness import KINDS, Faithfulness
from passl_sot.vis.maps import Seen, View, choose_classes, see
from passl_sot.vis.overlay import Caption, Panel
from passl_sot.vis.page import Page, png
from passl_sot.vis.pixels import fitted
from passl_sot.vis.subject import Read, read_items
from passl_sot.vis.words import Sentence

_TRUST = (
    "Insertion: a blurred image, or a text of hidden words, is filled step by step, first what the map calls "
    "most relevant; the sooner the class's probability rises, the better, so a large area below that curve "
    "is good. Deletion: the image or text is emptied in the same order; a small area is good. Each stands "
    "beside the same by a random map (dashed): a map that isn't better says nothing. In the small charts "
    "green is where the map is better than the random one, red where it is worse."
)
_IMAGES = (
    "Blue is where the image speaks least for the class, red where most; each map has a scale of its own, "
    "from its least to its greatest value, and one that is blue all over is empty. The image is what the "
    "model sees, as cropped and resized for it."
)
_WORDS = (
    "A word is as relevant as the most relevant of its tokens; the colours run linearly from the weakest "
    "word of a text to the strongest. Special tokens aren't shown; what has no box was cut off."
)


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
    curves: dict[str, list[Faithfulness]] = {}
    sections = Page("")
    subjects = list({view.subject.name: view.subject for view in views}.values())
    for batch in read_items(subjects, items, batch_size, errors):
        classes = choose_classes(subjects[0], batch, asked=asked, top_k=top_k)
        # By class and view, of all items of the batch.
        seen = [[see(view, batch, chosen, steps) for view in views] for chosen in classes.T]
        for i, read in enumerate(batch):
            by_class = {
                int(chosen[i]): [of_view[i] for of_view in of_class]
                for chosen, of_class in zip(classes.T, seen, strict=True)
            }
            for s in itertools.chain(*by_class.values()):
                if s.curves:
                    curves.setdefault(s.view.name, []).append(s.curves)
            card = _Card(read, by_class)
            card.save(folder)
            card.write(sections)
            rows += card.rows
    if curves:
        _write_means(curves, rows, folder, page)
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
        self.rows = [self._row(s) for seen in by_class.values() for s in seen]
        self._one_view = len(by_class) > 1 and all(len(seen) == 1 for seen in by_class.values())
        groups = {self._about(index): seen for index, seen in by_class.items()}
        if self._one_view:  # its classes side by side, rather than rows of one map each
            every = [seen for (seen,) in by_class.values()]
            groups = {every[0].view.name: every}
        self._drawn = {heading: make(seen) for heading, seen in groups.items()}

    def save(self, folder: Path) -> None:
        """Draws the PNG."""
        figure = self._sheet(textwrap.fill(self._read.title, 100), self._drawn)
        (folder / f"{self._read.stem}.png").write_bytes(png(figure))

    def write(self, page: Page) -> None:
        """Writes a section."""
        page.section(self._read.title)
        for heading, shown in self._drawn.items():
            page.text(heading)
            if self._first.takes_texts:
                _write_sentences(shown, page)
            else:
                _write_panels(shown, page)

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
        panels = [Panel(fitted(first), Caption("image", "as the model sees it"))]
        for s in seen:
            picture = s.view.subject.picture(self._read.samples[s.view.subject.name])
            panels.append(Panel(overlay.shaded(picture, s.map), self._caption(s)))
        return panels

    def _sentences(self, seen: Sequence[Seen]) -> list[Sentence]:
        sentences = []
        for s in seen:
            pieces = words.words_of(s.view.subject.task.tokenizer, self._read.item, s.map)
            sentences.append(Sentence(pieces, self._caption(s)))
        return sentences

    def _caption(self, seen: Seen) -> Caption:
        task = seen.view.subject.task
        verdict = f"{seen.probability:.3f}"
        if not seen.view.subject.predicts_numbers:
            verdict = f"{task.class_names[seen.predicted]} ({_percent(seen.probability)})"
            if seen.predicted != seen.index:
                verdict += f"; this class {_percent(seen.of_class)}"
        right = None
        if self._label is not None:
            right = seen.predicted == self._label
        note = ""
        chart = None
        if seen.curves:
            chart = charts_of(seen.curves)
            areas = seen.areas
            note = "\n".join(f"{k} {areas[k]:.2f} (random {areas[f'random_{k}']:.2f})" for k in KINDS)
        name = seen.view.name
        if self._one_view:
            name = self._about(seen.index)
        return Caption(name, verdict, right, note, chart)

    def _row(self, seen: Seen) -> dict[str, Any]:
        names = self._first.class_names
        return {
            "item": self._read.name,
            "view": seen.view.name,
            "class": seen.index,
            "name": names[seen.index],
            "label": self._label,
            "predicted": seen.predicted,
            "predicted_name": names[seen.predicted],
            "probability": seen.probability,
            "probability_of_class": seen.of_class,
            **seen.areas,
        }


def _write_panels(panels: Sequence[Panel], page: Page) -> None:
    for panel in panels:
        caption = panel.caption
        chart = b""
        if caption.chart is not None:
            chart = as_png(caption.chart)
        said = "\n".join(filter(None, (caption.verdict, caption.note)))
        options: dict[str, Any] = {"title": caption.name, "right": caption.right, "chart": chart}
        page.figure(overlay.jpeg(panel.picture), said, width=WIDE, **options)


def _write_sentences(sentences: Sequence[Sentence], page: Page) -> None:
    for sentence in sentences:
        page.markup(words.markup(sentence))
    # Below all, as sentences are to be compared: charts between them would part them.
    for caption in (sentence.caption for sentence in sentences):
        if caption.chart is not None:
            page.figure(as_png(caption.chart), caption.note, title=caption.name, width=WIDE)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}\u00a0%"


def _write_means(
    curves: Mapping[str, Sequence[Faithfulness]], rows: Sequence[dict[str, Any]], folder: Path, page: Page
) -> None:
    """Writes `faithfulness.csv` and `.json`, and the means of each view: curves and areas."""
    mean_curves = {}
    means = []
    cells = []
    for view, found in curves.items():
        every = Faithfulness(*map(np.stack, zip(*found, strict=True)))
        areas = every.areas()
        mean: dict[str, Any] = {"view": view, "maps": len(found)}
        row: list[Any] = [view, len(found)]
        for kind, is_better in every.better().items():
            random = f"random_{kind}"
            better = float(is_better.mean())
            values = {kind: float(areas[kind].mean()), random: float(areas[random].mean())}
            mean |= {**values, f"{kind}_better": better}
            row += [*values.values(), f"{100 * better:.0f}\u00a0%"]
        mean_curves[view] = Faithfulness(*(curve.mean(axis=0) for curve in every))
        mean["curves"] = {name: curve.tolist() for name, curve in mean_curves[view]._asdict().items()}
        means.append(mean)
        cells.append(row)
    page.section("How far the maps can be trusted", _TRUST)
    page.figure(mean_charts(mean_curves), "Means over all maps.")
    heads = [head for kind in KINDS for head in (kind, "of a random map", "maps that are better")]
    page.table(["", "maps", *heads], cells)
    text = json.dumps({"means": means, "maps": rows}, ensure_ascii=False, indent=1)
    (folder / "faithfulness.json").write_text(text + "\n", encoding="utf-8")
    write_table(folder / "faithfulness.csv", list(rows[0]), [list(row.values()) for row in rows])
