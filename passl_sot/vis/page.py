"""Pages of pictures, words and tables: each ONE file of HTML that needs no other, whoever opens it."""

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from passl_sot.utils.files import replace_atomically
from passl_sot.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_JPEG = b"\xff\xd8"
_SMALL = 64  # pixels: what is smaller is enlarged by whole pixels, not smeared
_FEW = 3  # sections that need no list of contents


def png(picture: "np.ndarray | bytes | Path | Figure") -> bytes:
    """A picture as a PNG file's bytes.

    Args:
        picture: uint8 [H, W] or [H, W, 3] (RGB), a figure of matplotlib, or the bytes or the path of a PNG
            or JPEG file, which stay as they are.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Path):
        return picture.read_bytes()
    if isinstance(picture, np.ndarray):
        import cv2  # takes a fifth of a second, and pages of tables do without

        if picture.ndim == 3:
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".png", picture)[1].tobytes()
    file = io.BytesIO()
    picture.savefig(file, format="png")
    return file.getvalue()


class Page:
    """A page of HTML, filled from above: `section`, then `text`, `figure` and `table`, and at last `save`.

    Whatever is given as text is shown as it is, in any script and direction; nothing in it is markup.

    Args:
        title: Of the page.
        facts: What it shows, in a sentence or several lines.
    """

    def __init__(self, title: str, facts: str = "") -> None:
        self.title = title
        self.facts = facts
        self._sections: list[tuple[str, list[str]]] = [("", [])]  # heading and contents of each

    def section(self, heading: str, text: str = "") -> None:
        """Begins a section; what follows stands in it.

        Args:
            heading: Its heading.
            text: As for `text`.
        """
        self._sections.append((heading, []))
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """A paragraph; its line breaks are kept."""
        self.markup(f'<div class="wide"><p dir="auto">{_text(text)}</p></div>')

    def figure(
        self,
        picture: "np.ndarray | bytes | Path | Figure",
        caption: str = "",
        *,
        alt: str = "",
        width: int | None = None,
        right: bool | None = None,
        title: str = "",
        chart: bytes = b"",
    ) -> None:
        """A picture; those that follow each other stand in a row as far as there is room.

        Args:
            picture: As `png` takes it.
            caption: Below it; its line breaks are kept.
            alt: What those hear who can't see it; by default the caption.
            width: On the page, in pixels; by default as wide as it is.
            right: Whether what it shows is right, as a tick or a cross before the caption; None for neither.
            title: Above it.
            chart: A second file of a picture, below it and as wide; the caption says what it shows.
        """
        images = _image(picture, alt or caption, width)
        if chart:
            images += _image(chart, "", width)
        below = _element("figcaption", mark(right) + _text(caption))
        above = _element("b", _text(title))
        self.markup(f"<figure>{above}{images}{below}</figure>")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
        """A table.

        Args:
            heads: Of its columns.
            rows: A cell for each of them: texts as they are; whole numbers; floats with four digits that
                count; booleans as ticks and crosses; None where there is nothing.
            caption: Above it.
        """
        # A table without rows still has its heads.
        columns = list(zip(*rows, strict=True)) or [()] * len(heads)
        styles = [' class="number"' * any(map(_is_number, column)) for column in columns]
        head = "".join(f"<th{style}>{_text(text)}</th>" for text, style in zip(heads, styles, strict=True))
        lines = []
        for row in rows:
            cells = (
                f'<td{style} dir="auto">{_cell(cell)}</td>' for cell, style in zip(row, styles, strict=True)
            )
            lines.append(f"<tr>{''.join(cells)}</tr>")
        parts = [_element("caption", _text(caption)), f"<thead><tr>{head}</tr></thead>"]
        parts += ["<tbody>", *lines, "</tbody>"]
        self.markup(f'<div class="wide"><table>{chr(10).join(parts)}</table></div>')

    def markup(self, html: str) -> None:
        """HTML of one's own; `<div class="wide">` takes a whole line. Texts in it are to be escaped."""
        self._sections[-1][1].append(html)

    def extend(self, other: "Page") -> None:
        """Adds the sections of another page behind one's own.

        Args:
            other: The page, filled.
        """
        self._sections += other._sections

    def html(self) -> str:
        """The page."""
        template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
        # Numbers rather than headings as anchors: headings are any text, and may come twice.
        links = []
        body = []
        for number, (heading, parts) in enumerate(self._sections):
            above = ""
            if heading:
                links.append(f'<a href="#s{number}" dir="auto">{_text(heading)}</a>')
                above = f'<h2 id="s{number}" dir="auto">{_text(heading)}</h2>\n'
            if heading or parts:
                joined = "\n".join(parts)
                body.append(f"<section>{above}{joined}</section>")
        contents = ""
        if len(links) > _FEW:
            contents = f"<nav>{''.join(links)}</nav>"
        return template.substitute(
            title=_text(self.title),
            version=__version__,
            facts=_element("p", _text(self.facts)),
            contents=contents,
            body="\n".join(body),
        )

    def save(self, path: Path) -> None:
        """Writes the page, whole or not at all; an OSError says that it can't be written."""
        # Built before the file is opened: an error leaves an older page as it is.
        data = self.html().encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, lambda file: file.write(data))


def mark(right: bool | None) -> str:
    """A tick or a cross as HTML; nothing for None."""
    if right is None:
        return ""
    if right:
        return '<span class="right" aria-label="right">✓</span> '
    return '<span class="wrong" aria-label="wrong">✗</span> '


def _image(picture: "np.ndarray | bytes | Path | Figure", alt: str, width: int | None) -> str:
    data = png(picture)
    kind = "jpeg" if data.startswith(_JPEG) else "png"
    image = f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{_text(alt)}"'
    if width:
        image += f' width="{width}"'
    if isinstance(picture, np.ndarray) and max(picture.shape[:2]) <= _SMALL:
        image += ' class="small"'
    return f"{image}>"


def _element(name: str, html: str) -> str:
    """An element of HTML; nothing where it would be empty."""
    if not html:
        return ""
    return f'<{name} dir="auto">{html}</{name}>'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return mark(bool(value))
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return _text(str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)


def _text(text: str) -> str:
    # Names of files may hold halves of characters, which no encoding has.
    return escape(text.encode("utf-8", "replace").decode())
