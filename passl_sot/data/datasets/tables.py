"""Tables of texts in files: CSV, TSV, and JSON with an object a line."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from passl_sot.config import did_you_mean, zh
from passl_sot.config import nearest as nearest_name
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.text_files import not_in_encoding, read_bytes

Form = Literal["csv", "tsv", "jsonl"]
TextEncoding = Literal["utf-8", "gb18030"]
FORMS: dict[str, Form] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_NUL = "\0"

# A column's name, or its place in a table without a line of names.
Column = str | int


class Row(NamedTuple):
    """What a line says; "" for what it doesn't."""

    text: str
    second: str
    label: str


@dataclass(kw_only=True)
class Layout:
    """How a table is read.

    Attributes:
        form: Of the file.
        text, second, label: The columns, of which the last two may be missing.
        quoting: Whether cells may stand in quotes, with separators and ends of lines in them; None where
            that is so in CSV and not in TSV.
        encoding: Of the file.
        loose: As published sets of texts need it: longer lines than the first are fine, shorter ones are left
            out where it is "skip".
    """

    form: Form
    text: Column
    second: Column | None = None
    label: Column | None = None
    quoting: bool | None = None
    encoding: TextEncoding = "utf-8"
    loose: Literal["", "longer", "skip"] = ""

    @property
    def columns(self) -> list[Column | None]:
        """Those of a `Row`."""
        return [self.text, self.second, self.label]


@dataclass
class Rows:
    """The lines of a table: their numbers, what they say, and how many were left out."""

    lines: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    left_out: int = 0


def form_of(path: str, given: Form | None) -> Form:
    """The form of a table, by its ending where it isn't given."""
    form = given or FORMS.get(os.path.splitext(path)[1].lower())
    if form is None:
        raise DataError(f"{path} ends in none of {' '.join(FORMS)}: write format: csv, tsv or jsonl")
    return form


def column_names(path: str, form: Form, *, quoting: bool) -> list[str]:
    """The names in the first line of a table; of JSON those of the first object, none where it is none.

    Raises:
        DataError: It can't be read.
    """
    text = decode(path, read_bytes(path), "utf-8")
    if form != "jsonl":
        records = _quoted(text, form) if quoting else _plain(text, form)
        first = next((cells for _, cells in records), [])
        return [] if isinstance(first, str) else [name.strip() for name in first]
    try:
        found = json.loads(text.strip().partition("\n")[0])
    except (ValueError, RecursionError):
        return []
    return list(found) if isinstance(found, dict) else []


def read_rows(path: str, layout: Layout, label_fault: Callable[[str], str] = lambda label: "") -> Rows:
    """Reads a table.

    Args:
        path: The file.
        layout: Its columns.
        label_fault: Says what is wrong with a label; "" for nothing.

    Raises:
        DataError: It can't be read, lacks columns, or lines are faulty: each is named as file:line.
    """
    text = decode(path, read_bytes(path), layout.encoding)
    lines = _objects if layout.form == "jsonl" else _cells
    found = Rows()
    faults = []
    for number, row in lines(path, text, layout):
        if row is None:
            found.left_out += 1
            continue
        fault = row if isinstance(row, str) else _row_fault(row)
        if not fault and layout.label is not None and isinstance(row, Row):
            fault = label_fault(row.label)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
        elif isinstance(row, Row):
            found.lines.append(number)
            found.rows.append(row)
    stop_at(faults, f"lines of {path}")
    if not found.rows:
        raise DataError(f"{path} holds no texts" + zh("no_texts"))
    return found


def decode(path: str, data: bytes, encoding: TextEncoding) -> str:
    """The text of a file, without a byte-order mark; a DataError names a line that isn't in its encoding."""
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        advice = "; save the file as UTF-8"
        if encoding == "utf-8" and _is_gb18030(data):
            advice += ", or write encoding: gb18030"
        raise not_in_encoding(path, error, advice, encoding) from error


def _is_gb18030(data: bytes) -> bool:
    try:
        return _NUL not in data.decode("gb18030")  # zero bytes are of UTF-16
    except UnicodeDecodeError:
        return False


def text_fault(*texts: str) -> str:
    """What is wrong with a text, or with two that belong together; "" for nothing."""
    whole = "".join(texts)
    if _NUL in whole:
        return "a zero byte (NUL): the file is damaged, or UTF-16" + zh("save_as_utf8")
    if not whole or whole.isspace():
        return "the text is empty" + zh("text_empty")
    return ""


def _row_fault(row: Row) -> str:
    fault = text_fault(row.text, row.second)
    if fault:
        return fault
    try:
        "".join(row).encode()
    except UnicodeEncodeError:  # an escape of JSON can say so
        return "holds half a character (a lone surrogate)" + zh("lone_surrogate")
    return ""


def _cells(path: str, text: str, layout: Layout) -> Iterator[tuple[int, Row | str | None]]:
    """The rows of CSV or TSV: numbers of lines, and faults in place of rows; None for lines left out."""
    quoting = layout.quoting
    if quoting is None:
        quoting = layout.form == "csv"
    records = _quoted(text, layout.form) if quoting else _plain(text, layout.form)
    places: list[int | None] | None = None
    width = 0
    for number, cells in records:
        if isinstance(cells, str):
            yield number, cells
            continue
        if places is None:
            width = len(cells)
            places = [_place(path, number, cells, column) for column in layout.columns]
            if isinstance(layout.text, str):  # this is the line of names
                continue
        if len(cells) < width and layout.loose == "skip":
            yield number, None
        elif len(cells) < width or (len(cells) > width and not layout.loose):
            yield number, f"{len(cells)} columns, and the first line has {width}" + zh("column_count")
        else:
            yield number, Row(*("" if place is None else cells[place] for place in places))


def _place(path: str, number: int, first: Sequence[str], column: Column | None) -> int | None:
    """The place of a column, by the first line of a table."""
    if column is None:
        return None
    names = [name.strip() for name in first]
    if isinstance(column, int):
        if column < len(names):
            return column
        wanted = f"at least {column + 1} columns are needed"
    else:
        if names.count(column) == 1:
            return names.index(column)
        wanted = f"no column '{column}'{did_you_mean(nearest_name(column, names))}"
        if column in names:
            wanted = f"several columns '{column}'"
    listed = ", ".join(repr(name[:40]) for name in names[:20])
    raise DataError(f"{path}:{number}: {wanted}; there are {listed}" + zh("no_column"))


def _plain(text: str, form: Form) -> Iterator[tuple[int, list[str]]]:
    separator = "," if form == "csv" else "\t"
    # Not `splitlines`: texts may hold other signs that end lines.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line:
            yield number, line.split(separator)


def _quoted(text: str, form: Form) -> Iterator[tuple[int, list[str] | str]]:
    before = csv.field_size_limit(sys.maxsize)  # of all readers, so it is put back
    try:
        reader = csv.reader(io.StringIO(text, ""), delimiter="," if form == "csv" else "\t", strict=True)
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"quotes that don't fit ({error}), and all behind them is unread" + zh("quotes")
                return
            if cells:
                yield number, cells
    finally:
        csv.field_size_limit(before)


def _objects(path: str, text: str, layout: Layout) -> Iterator[tuple[int, Row | str | None]]:
    """As `_cells`, of JSON."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"no JSON ({error})" + zh("no_json_line")
            continue
        if not isinstance(found, dict):
            yield number, "no JSON object, {...}" + zh("no_json_line")
            continue
        values = [_value(found, column) for column in layout.columns]
        lost = [column for column, value in zip(layout.columns, values, strict=True) if value is None]
        if lost:
            listed = ", ".join(map(repr, found))
            yield number, f"no text under '{lost[0]}' (there are {listed})" + zh("no_column")
        else:
            yield number, Row(*map(str, values))


def _value(found: dict[str, Any], column: Column | None) -> str | None:
    """A value as text: numbers and truths may be labels; None where there is none."""
    if column is None:
        return ""
    value = found.get(str(column))
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value if isinstance(value, str) else None
