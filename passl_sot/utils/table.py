"""Tables in Markdown, which a terminal shows well too."""

from collections.abc import Sequence


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table, in columns as wide as their longest cells.

    Args:
        rows: Cells: of floats four digits are shown, of texts the first line.
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    rule = ["-" * width for width in widths]
    return [_line(cells, widths) for cells in (heads, rule, *texts)]


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell).partition("\n")[0]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"
