"""The rows of a suite as a table, and as files."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passl_sot.utils.table import markdown
from passl_sot.weights.checkpoint import write_whole

# Columns by the keys of rows, in this order; other scores stand before the last ones under their own names.
_HEADS = {
    "checkpoint": "checkpoint",
    "weights": "weights",
    "tta": "views",
    "set": "set",
    "images": "images",
    "top1": "top-1 (%)",
    "published": "published (%)",
    "difference": "difference",
    "top5": "top-5 (%)",
    "mce": "mCE (%)",
    "relative_mce": "relative mCE (%)",
    "ece": "ECE (%)",
    "adaptive_ece": "adaptive ECE (%)",
    "brier": "Brier score",
}
_LAST = {"images_per_s": "images/s", "machine": "machine", "partial": "partial"}
_HIDDEN = ("name", "folder", "corruptions")


def as_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Heads and cells of the rows that `run_suite` gave; None where a row lacks a score.

    Columns in which no row has anything are left out.
    """
    filled = dict.fromkeys(key for row in rows for key, value in row.items() if value not in ("", None))
    scores = [key for key in filled if key not in (*_HEADS, *_LAST, *_HIDDEN)]
    heads = {**_HEADS, **{key: key for key in scores}, **_LAST}
    keys = [key for key in heads if key in filled]
    return [heads[key] for key in keys], [[row.get(key) for key in keys] for row in rows]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, with two digits behind the point."""
    heads, cells = as_table(rows)
    return "\n".join(markdown(heads, [[_shown(cell) for cell in row] for row in cells])) + "\n"


def write_tables(stem: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Writes `stem`.json (with the errors on each corruption), .csv and .md; returns their paths."""
    heads, cells = as_table(rows)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([heads, *cells])
    contents = {
        ".json": json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n",
        # Spreadsheets read Chinese names right by this mark.
        ".csv": "\ufeff" + text.getvalue(),
        ".md": as_markdown(rows),
    }
    paths = []
    for suffix, content in contents.items():
        paths.append(stem.with_suffix(suffix))
        data = content.encode("utf-8", "replace")  # names of files may hold halves of characters
        write_whole(paths[-1], data)
    return paths
