"""Relevance of the words of texts: in boxes from blue, the weakest, to green, the strongest."""

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from passl_sot.data.tokens import Place, Tokenizer
from passl_sot.tasks.text_classification import texts_of
from passl_sot.utils.figure import drawable
from passl_sot.vis.canvas import Canvas
from passl_sot.vis.curves import HIGH, WIDE
from passl_sot.vis.overlay import Caption, halved, scaled
from passl_sot.vis.page import mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEAK, STRONG = (59, 95, 192), (92, 219, 116)
_WIDTH = 1000  # pixels of a sheet
_MARGIN = 16
_LINE = 30
_POINTS = 11.0
_PAD, _APART, _BLANK = 4, 3, 5  # pixels: in a box, between boxes, for a blank
_MOST_CUT = 200  # characters of what was cut off that are shown


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: It.
        value: How relevant the word is, in 0 to 1; None of what stands between words, or was cut off.
    """

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Sentence:
    """A text, or two of a pair, with what a model says of it.

    Attributes:
        texts: The pieces of each.
        caption: Its words.
    """

    texts: Sequence[Sequence[Piece]]
    caption: Caption


def pieces_of(texts: Sequence[str], places: Sequence[Place | None], scores: np.ndarray) -> list[list[Piece]]:
    """Texts in words and what is between, each word as relevant as the most relevant of its tokens.

    The least relevant word of all has 0, the most relevant 1. The greatest rather than the sum, so that rare
    words, which have more tokens, aren't ahead for that.

    Args:
        texts: A text, or two.
        places: Where its tokens are from, as of `Tokenizer.places`.
        scores: Their relevances [L], with padding behind them.
    """
    words: dict[tuple[int, int], list[float]] = {}
    for place, score in zip(places, scores[: len(places)], strict=True):
        # Special tokens, and those that stand for no letter.
        if place is None or place.begin == place.end:
            continue
        word = words.setdefault((place.text, place.word), [place.begin, place.end, float(score)])
        word[0] = min(word[0], place.begin)
        word[1] = max(word[1], place.end)
        word[2] = max(word[2], float(score))
    if not words:
        return [[Piece(text)] for text in texts]
    values = scaled(np.array([score for *_, score in words.values()]))
    found: list[list[tuple[int, int, float]]] = [[] for _ in texts]
    for (number, _), (begin, end, _), value in zip(words, words.values(), values, strict=True):
        found[number].append((int(begin), int(end), float(value)))
    return [_divided(text, sorted(spans)) for text, spans in zip(texts, found, strict=True)]


def words_of(tokenizer: Tokenizer, item: Any, scores: np.ndarray) -> list[list[Piece]]:
    """The same of an item as its task takes it, a text or two."""
    texts = texts_of(item)
    given: Any = texts[0]
    if len(texts) == 2:
        given = texts
    return pieces_of(texts, tokenizer.places(given), scores)


def _divided(text: str, spans: Sequence[tuple[int, int, float]]) -> list[Piece]:
    pieces = []
    done = 0
    for begin, end, value in spans:
        # Byte-level tokens may share a character: it is shown once.
        start = max(begin, done)
        # Tokens of some kinds hold the blank before them.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if start >= end:
            continue
        if start > done:
            pieces.append(Piece(text[done:start]))
        pieces.append(Piece(text[start:end], value))
        done = end
    rest = text[done:]
    if len(rest) > _MOST_CUT:
        rest = f"{rest[:_MOST_CUT]}…"
    if rest:
        pieces.append(Piece(rest))
    return pieces


def color_of(value: float) -> tuple[str, str]:
    """The colour of a box, and that of the letters on it."""
    rgb = [round(low + value * (high - low)) for low, high in zip(WEAK, STRONG, strict=True)]
    # The eye's weights of the three colours.
    light = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
    ink = "#000000"
    if light < 130:
        ink = "#ffffff"
    return "#{:02x}{:02x}{:02x}".format(*rgb), ink


def markup(sentence: Sentence) -> str:
    """A sentence as HTML for a `Page`."""
    caption = sentence.caption
    head = f"<b>{escape(caption.name)}</b> {mark(caption.right)}{escape(caption.verdict)}"
    lines = [f'<div class="wide"><div dir="auto">{head}</div>']
    for pieces in sentence.texts:
        inside = []
        for piece in pieces:
            text = escape(piece.text)
            if piece.value is not None:
                ground, ink = color_of(piece.value)
                text = (
                    f'<span style="background:{ground};color:{ink}" title="{piece.value:.2f}">{text}</span>'
                )
            inside.append(text)
        lines.append(f'<p class="words" dir="auto">{"".join(inside)}</p>')
    return "".join([*lines, "</div>"])


def bar_markup() -> str:
    """The bar of the colours as HTML."""
    weak, strong = color_of(0)[0], color_of(1)[0]
    style = f"background:linear-gradient(to right,{weak},{strong})"
    return f'<div class="wide bar">weak <span style="{style}"></span> strong</div>'


def sheet(title: str, rows: Mapping[str, Sequence[Sentence]]) -> "Figure":
    """Sentences below each other under headings, with the curves of each, and the bar of the colours."""
    texts = [title, *rows]
    for s in (sentence for row in rows.values() for sentence in row):
        texts += [s.caption.name, s.caption.marked[0]]
        texts += [piece.text for pieces in s.texts for piece in pieces]
    words, fonts = drawable(texts)
    writer = _Writer(fonts, dict(zip(texts, words, strict=True)))
    top = _MARGIN + 22.0 * (1 + title.count("\n"))
    for heading, row in rows.items():
        writer.put(_MARGIN, top, heading, color="#555555")
        top += _LINE + 14
        for sentence in row:
            top = writer.sentence(sentence, top)
        top = writer.notes([sentence.caption for sentence in row], top)
    return writer.figure(title, top + 36)


class _Writer:
    """Lays out words in boxes line by line, from the left or, where the text runs so, from the right."""

    def __init__(self, fonts: list[str], known: dict[str, str]):
        self._known = known  # how texts are written in these fonts
        self._fonts = fonts
        self._measure = Canvas(_WIDTH, 100, fonts)
        self._written: list[tuple[float, float, str, dict[str, Any]]] = []
        self._charts: list[tuple[float, float, np.ndarray]] = []

    def put(self, left: float, top: float, text: str, **style: Any) -> None:
        """Lays out a line."""
        self._written.append((left, top, self._known.get(text, text), {"size": _POINTS, **style}))

    def sentence(self, sentence: Sentence, top: float) -> float:
        """Lays out a sentence below `top`; gives where it ends, in pixels."""
        caption = sentence.caption
        verdict, ink = caption.marked
        self.put(_MARGIN, top, caption.name, va="center")
        self.put(_MARGIN + self._wide(self._known[caption.name]) + 12, top, verdict, va="center", color=ink)
        top += _LINE
        for pieces in sentence.texts:
            top = self._text(pieces, top) + _LINE
        return top + 6

    def notes(self, captions: Sequence[Caption], top: float) -> float:
        """Lays out curves side by side, with the notes below; gives where they end."""
        step = WIDE + _MARGIN
        across = (_WIDTH - _MARGIN) // step
        for first in range(0, len(captions), across):
            row = captions[first : first + across]
            if not any(caption.note for caption in row):
                continue
            for place, caption in enumerate(row):
                left = _MARGIN + place * step
                self.put(left, top, caption.name, size=9, width=WIDE)
                if caption.chart is not None:
                    self._charts.append((left, top + 18, halved(caption.chart)))
                self.put(left, top + 18 + HIGH, caption.note, size=9, color="#555555")
            top += 36 + HIGH + 18 * max(caption.note.count("\n") for caption in row) + _MARGIN
        return top

    def _text(self, pieces: Sequence[Piece], top: float) -> float:
        from_right = runs_leftwards("".join(piece.text for piece in pieces))
        line: list[_Box] = []
        used = 0.0
        for piece in pieces:
            # A blank belongs to the word before, so that no line begins with one.
            if line and not piece.text.strip():
                line[-1].wide += _BLANK
                used += _BLANK
                continue
            for text in self._fitting(self._known[piece.text], piece.value is None):
                wide = self._wide(text) + 2 * _PAD + _APART
                if line and used + wide > _WIDTH - 2 * _MARGIN:
                    self._place(line, from_right, top)
                    line = []
                    used = 0
                    top += _LINE
                line.append(_Box(text, wide, piece.value))
                used += wide
        self._place(line, from_right, top)
        return top

    def _place(self, line: Sequence["_Box"], from_right: bool, top: float) -> None:
        left: float = _MARGIN
        if from_right:
            left = _WIDTH - _MARGIN - sum(box.wide for box in line)
        for box in _as_seen(line, from_right):
            style: dict[str, Any] = {"color": "#555555"}
            if box.value is not None:
                ground, ink = color_of(box.value)
                shape = {"boxstyle": "round,pad=0.22", "facecolor": ground, "edgecolor": "none"}
                style = {"color": ink, "bbox": shape}
            self.put(left + _PAD, top, box.text, va="center", **style)
            left += box.wide

    def _fitting(self, text: str, divide: bool) -> list[str]:
        """A piece as one or, between words, several that may stand on different lines."""
        # What has no box may be broken at its blanks; a word may not.
        if divide:
            return text.split()
        room = _WIDTH - 2 * _MARGIN - 2 * _PAD
        wide = self._wide(text)
        if wide > room:
            return [f"{text[: int(len(text) * room / wide) - 2]}…"]
        return [text]

    def _wide(self, text: str) -> float:
        return self._measure.wide(text, _POINTS)

    def figure(self, title: str, height: float) -> "Figure":
        """All that was laid out, under a title."""
        canvas = Canvas(_WIDTH, height, self._fonts)
        canvas.write(_MARGIN, _MARGIN, self._known[title], size=_POINTS)
        for left, top, text, style in self._written:
            canvas.write(left, top, text, **style)
        for place in self._charts:
            canvas.show(*place)
        colors = np.array([WEAK, STRONG]) / 255
        ramp = colors[0] + np.linspace(0, 1, 256)[:, None] * (colors[1] - colors[0])
        bar = canvas.axes(_MARGIN + 40, height - 26, 200, 12)
        bar.imshow(ramp[None], aspect="auto")
        bar.set_axis_off()
        for left, word in ((_MARGIN, "weak"), (_MARGIN + 248, "strong")):
            canvas.write(left, height - 20, word, size=9, va="center")
        return canvas.figure


@dataclass
class _Box:
    """What stands in a line, as wide as it is with what lies behind it."""

    text: str
    wide: float
    value: float | None


def _as_seen(line: Sequence[_Box], from_right: bool) -> list[_Box]:
    """A line's boxes from left to right: words of one direction that follow each other stand in it."""
    ordered: list[_Box] = []
    for leftwards, run in itertools.groupby(line, lambda box: runs_leftwards(box.text, from_right)):
        boxes = list(run)
        if leftwards:
            boxes.reverse()
        ordered = [*boxes, *ordered] if from_right else [*ordered, *boxes]
    return ordered


def runs_leftwards(text: str, otherwise: bool = False) -> bool:
    """Whether a text runs from right to left, by the first letter of it that tells, if one does."""
    kinds = (unicodedata.bidirectional(letter) for letter in text)
    return next((kind != "L" for kind in kinds if kind in ("L", "R", "AL")), otherwise)
