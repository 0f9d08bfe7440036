"""YAML text to node trees and back: PyYAML's safe rules with the number formats of YAML 1.2."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

import yaml

from passl_sot.config.errors import ConfigError, Fault, Origin, did_you_mean, join_path, nearest

MAX_DEPTH = 100
_TAG = "tag:yaml.org,2002:"
# YAML 1.1 wants a dot and a signed exponent (5e-4 is text there) and reads 12:30 as base 60; 1.2 does not.
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_INT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*|[-+]?0x[0-9a-fA-F][0-9a-fA-F_]*|[-+]?0o[0-7][0-7_]*|[-+]?0b[01][01_]*)$"
)
_NUMERIC = "-+.0123456789"


# PyYAML's rules that stay: true/false/yes/no, null and "<<". Dates and a lone "=" are text here.
_KEPT = (_TAG + "bool", _TAG + "null", _TAG + "merge")

_Rules = dict[Any, list[tuple[str, re.Pattern[str]]]]


def _number_rules(rules: _Rules) -> _Rules:
    """Adds this module's number formats to rules that are sorted by a scalar's first character."""
    added = [(_TAG + "float", _FLOAT), (_TAG + "int", _INT)]
    return {key: [*rules.get(key, []), *(added if key in _NUMERIC else [])] for key in {*rules, *_NUMERIC}}


class _Loader(yaml.SafeLoader):
    """SafeLoader with other number formats; only its composer is used (see `compose_text`)."""

    yaml_implicit_resolvers: ClassVar[_Rules] = _number_rules(
        {
            key: [rule for rule in rules if rule[0] in _KEPT]
            for key, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
    )


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, (dict, list, tuple)) for item in data)
    return dumper.represent_sequence(_TAG + "seq", data, flow_style=flat)


def _represent_text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar(_TAG + "str", data, style=None if data.isprintable() else '"')


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever either set of number formats would misread."""

    yaml_implicit_resolvers: ClassVar[_Rules] = _number_rules(yaml.SafeDumper.yaml_implicit_resolvers)
    yaml_representers: ClassVar[dict[Any, Any]] = {
        **yaml.SafeDumper.yaml_representers,
        list: _represent_list,
        tuple: _represent_list,
        str: _represent_text,
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Writes every value out in full."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indents lists below their key."""
        super().increase_indent(flow, False)


def compose_text(text: str, file: str) -> yaml.Node | None:
    """Parses YAML into PyYAML's node tree (anchors resolved, no values made yet).

    Args:
        text: YAML, one document.
        file: Name for the error messages.

    Returns:
        The root node; None when there is nothing but white space and comments.

    Raises:
        ConfigError: The text is not valid YAML.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        message = f"the character {chr(err.character)!r} is not allowed in YAML"
        raise _yaml_error(file, line, message) from None
    except yaml.MarkedYAMLError as err:
        line, message = _plain_words(err, text)
        raise _yaml_error(file, line, message) from None
    except RecursionError:
        raise _yaml_error(file, 1, "nested too deeply") from None
    except (ValueError, TypeError, IndexError) as err:  # PyYAML leaks a few, e.g. for "\UFFFFFFFF"
        raise _yaml_error(file, 1, f"not valid YAML: {err}") from None


def _yaml_error(file: str, line: int, message: str) -> ConfigError:
    return ConfigError([Fault("", message, Origin(file, line), "yaml")])


# Part of PyYAML's problem, and the same in words for someone who does not know its grammar.
_IN_WORDS = {
    "found character '\\t'": "a tab stands where YAML wants spaces; indent with spaces",
    "mapping values are not allowed": "a ':' where no key can stand; mend the indentation, or put quotes "
    "around text",
    "expected <block end>": "the line's indentation fits none of the lines above",
    "could not find expected ':'": "a key without ':' behind it, or a wrong indentation",
    "found another document": "a second document begins; a file holds only one",
    "found undefined alias": "there is no anchor of that name; put quotes around text that begins with '*'",
    "expected alphabetic or numeric": "put quotes around text that begins with '*' or '&'",
    "that cannot start any token": "put quotes around text that begins with a special character",
}


def _plain_words(err: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line to look at, and its fault."""
    mark = err.problem_mark or err.context_mark
    line = mark.line + 1 if mark else 1
    opened = err.context_mark.line + 1 if err.context_mark else line
    problem, context = err.problem or "syntax error", err.context or ""
    lines = text.splitlines()
    if "quoted scalar" in context and "end of stream" in problem:
        # PyYAML points at the end of the file.
        line, words = opened, "a quote is opened and never closed"
    elif "flow" in context and any("${" in source for source in lines[opened - 1 : line]):
        words = 'inside [ ] or { } a reference needs quotes: "${...}"'
    elif "flow" in context:
        since = "" if opened == line else f" of line {opened}"
        bracket = "[" if "sequence" in context else "{"
        words = f"a comma is missing, or the '{bracket}'{since} is never closed"
    else:
        words = next((words for part, words in _IN_WORDS.items() if part in problem), "")
        words = words or f"{problem} {context}".strip()
    source = "".join(lines[line - 1 : line]).strip()
    if len(source) > 60:
        source = source[:57] + "..."
    if source:
        words += f"; the line reads: {source}"
    return min(line, max(len(lines), 1)), f"not valid YAML: {words}"


def scalar_value(node: yaml.ScalarNode) -> Any:
    """The Python value of a scalar node.

    Raises:
        ValueError: The tag is none of null, bool, int, float, str, or does not fit the text.
    """
    tag, text = node.tag.removeprefix(_TAG), node.value
    if tag == "str":
        return text
    if tag == "null":
        return None
    if tag == "bool":
        if text.lower() not in yaml.SafeLoader.bool_values:
            raise ValueError(f"'{text}' is neither true nor false")
        return yaml.SafeLoader.bool_values[text.lower()]
    if tag == "int":
        return _to_int(text)
    if tag == "float":
        return _to_float(text)
    raise ValueError(no_such_tag(node.tag))


def no_such_tag(tag: str) -> str:
    """The sentence about a tag that is not understood."""
    short = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
    return f"the tag '{short}' is not supported; values are plain YAML"


def _to_int(text: str) -> int:
    plain = text.replace("_", "").lower()
    # Python refuses to print longer ones, and honest configurations have none.
    if len(plain) > 4000:
        raise ValueError(f"an integer of {len(plain)} digits is too long")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(plain.lstrip("+-")[:2], 10)
    try:
        return int(plain, base)
    except ValueError:
        raise ValueError(f"'{text}' is not an integer") from None


def _to_float(text: str) -> float:
    plain = text.replace("_", "").lower()
    if plain.lstrip("+-") in (".inf", ".nan"):
        plain = plain.replace(".", "")
    try:
        return float(plain)
    except ValueError:
        raise ValueError(f"'{text}' is not a number") from None


def dump_yaml(value: Any) -> str:
    """YAML text of plain containers; `${` is escaped, so that what is text stays text.

    Raises:
        TypeError: A value has no YAML form.
    """
    return yaml.dump(
        _writable(value, ""),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,
        default_flow_style=False,
    )


def _writable(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {key: _writable(item, join_path(path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item, join_path(path, index)) for index, item in enumerate(value)]
    # Subclasses, such as NumPy's float64, would be written as Python objects.
    if type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{path}: a value of type {type(value).__name__} cannot be written as YAML")
    return value.replace("${", "$${") if isinstance(value, str) else value


def read_text(path: str) -> str:
    """The text of a file: UTF-8, with or without a byte-order mark.

    Raises:
        ConfigError: It cannot be read; for a missing file the nearest existing names are given.
    """
    near, line = None, None
    try:
        with open(path, "rb") as file:
            data = file.read()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        near = nearby_file(path)
        message = "no such file" + did_you_mean(near)
    except IsADirectoryError:
        message = "this is a folder, not a file"
        inside = _yaml_files(path)[:5]
        if inside:
            message += f"; it holds {', '.join(inside)}"
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        message = "the file is not UTF-8 text; save it as UTF-8"
    except (OSError, ValueError) as err:
        message = f"cannot be read: {getattr(err, 'strerror', err)}"
    raise ConfigError([Fault("", message, Origin(path, line), "file", near)])


def nearby_file(path: str) -> str | None:
    """The YAML file most likely meant: one in the same folder, else one below the nearest existing folder."""
    folder = os.path.dirname(path)
    name = os.path.splitext(os.path.basename(path))[0]
    for place, deep in ((folder, False), (folder, True), (os.path.dirname(folder), True)):
        stems: dict[str, str] = {}
        for file in _yaml_files(place, deep):
            stems.setdefault(os.path.splitext(os.path.basename(file))[0], file)
        near = name if name in stems else nearest(name, stems)
        if near:
            return stems[near]
    return None


def _yaml_files(folder: str, deep: bool = False) -> list[str]:
    found: list[str] = []
    seen = 0
    for place, folders, files in os.walk(folder or "."):
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        names = sorted(name for name in files if name.endswith((".yaml", ".yml")))
        found += [os.path.normpath(os.path.join(place, name)) for name in names]
        seen += len(files) + len(folders)
        # A typing error in a home folder must not search a whole disk.
        if seen > 2000:
            break
    return found
