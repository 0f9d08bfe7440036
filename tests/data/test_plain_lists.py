"""Lists read as a whole give what lists read line by line give, faults too."""

from __future__ import annotations

import os
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl_sot.data import DataError
from passl_sot.data.datasets.list_files import _read_plain, read_list

WORDS = st.text(alphabet="ab/. \t#\\é\r0", max_size=6)
LABELS = st.one_of(
    st.integers(-2, 12), st.sampled_from(["", "x", "10000000", "10000001", "007", "1.0", "+3"])
)
LINES = st.tuples(WORDS, st.sampled_from([" ", "\t", "  ", ""]), LABELS, st.sampled_from(["", "", "", " "]))


def _result(path: str) -> object:
    try:
        paths, labels = read_list(path)
    except DataError as error:
        return str(error)
    return list(paths), labels.tolist(), labels.dtype


@settings(max_examples=600, deadline=None)
@given(lines=st.lists(LINES, min_size=1, max_size=5), end=st.booleans())
def test_as_line_by_line(tmp_path_factory, lines, end):
    path = str(tmp_path_factory.getbasetemp() / "list.txt")
    text = "\n".join(f"{name}{separator}{label}{after}" for name, separator, label, after in lines)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text + "\n" * end)
    with patch("passl_sot.data.datasets.list_files._read_plain", lambda data: None):
        expected = _result(path)
    assert _result(path) == expected


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_plain_lists_are_read_as_a_whole(separator, end):
    text = f"a b/1.jpg{separator}0\nc.png{separator}12{end}"
    paths, labels = _read_plain(text.encode())
    assert list(paths) == ["a b/1.jpg", "c.png"]
    np.testing.assert_array_equal(labels, [0, 12])


@pytest.mark.parametrize("text", ["a.jpg 0\nb.jpg 1\n", "# made by find\na.jpg 0\nb.jpg 1\n"])
def test_a_list_that_can_be_read_once_only(text):
    """A shell's `<(...)` is a pipe."""
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    paths, labels = read_list(f"/dev/fd/{reader}")
    os.close(reader)
    assert (list(paths), labels.tolist()) == (["a.jpg", "b.jpg"], [0, 1])
