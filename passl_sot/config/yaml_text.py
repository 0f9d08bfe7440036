"""YAML text to node trees and back: PyYAML's safe rules with the number formats of YAML 1.2."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

import yaml

from passl_sot.config.errors import ConfigError, Fault, Origin, join_path
from passl_sot.config.suggest import did_you_mean, nearest

MAX_DEPTH = 100  # Python's own limit of 1000 calls would end in a traceback
_TAG = "tag:yaml.org,2002:"
# YAML 1.1 wants a dot and a signed exponent (5e-4 is text there) and reads 12:30 as base 60; 1.2 does not.
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_INT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*|[-+]?0x[0-9a-fA-F][0-9a-fA-F_]*|[-+]?0o[0-7][0-7_]*|[-+]?0b[01][01_]*)$"
)
# PyYAML's rules that stay: true/false/yes/no, null and "<<". Dates and a lone "=" are text here.
_KEPT = (_TAG + "bool", _TAG + "null", _TAG + "merge")


class _Loader(yaml.SafeLoader):
    """SafeLoader with other number formats; only its composer is used."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {
        first: [rule for rule in rules if rule[0] in _KEPT]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever either set of number formats would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes every value out in full."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indents lists below their key."""
        super().increase_indent(flow, False)

    def represent_list(self, data: list[Any]) -> yaml.Node:
        """Lists of scalars stand on one line."""
        flat = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence(_TAG + "seq", data, flow_style=flat)

    def represent_text(self, data: str) -> yaml.Node:
        """Unprintable characters need double quotes."""
        return self.represent_scalar(_TAG + "str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(str, _Dumper.represent_text)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))
    _kind.add_implicit_resolver(_TAG + "int", _INT, list("-+.0123456789"))


def compose_text(text: str, file: str) -> yaml.Node | None:
    """PyYAML's nodes of one document, or None if it is empty; a ConfigError names `file` and line."""
    line = 1
    try:
        return yaml.compose(text, _Loader)
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        message = f"the character {chr(err.character)!r} is not allowed in YAML"
    except yaml.MarkedYAMLError as err:
        line, message = _plain_words(err, text)
    except RecursionError:
        message = "nested too deeply"
    except (ValueError, TypeError, IndexError) as err:  # PyYAML leaks a few, e.g. for "\UFFFFFFFF"
        message = f"not valid YAML: {err}"
    raise ConfigError([Fault("", message, Origin(file, line), "yaml")])


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
    line = err.problem_mark.line + 1
    opened = (err.context_mark or err.problem_mark).line + 1
    problem = err.problem
    context = err.context or ""
    lines = text.splitlines()
    words = f"{problem} {context}".strip()
    if "quoted scalar" in context and "end of stream" in problem:
        # PyYAML points at the end of the file.
        line = opened
        words = "a quote is opened and never closed"
    elif "flow" in context and any("${" in source for source in lines[opened - 1 : line]):
        words = 'inside [ ] or { } a reference needs quotes: "${...}"'
    elif "flow" in context:
        since = f" of line {opened}" * (opened != line)
        bracket = "[" if "sequence" in context else "{"
        words = f"a comma is missing, or the '{bracket}'{since} is never closed"
    else:
        words = next((ours for part, ours in _IN_WORDS.items() if part in problem), words)
    source = "".join(lines[line - 1 : line]).strip()
    if len(source) > 60:
        source = source[:57] + "..."
    if source:
        words += f"; the line reads: {source}"
    return min(line, max(len(lines), 1)), f"not valid YAML: {words}"


class RefusedError(Exception):
    """A value that is valid YAML, but none of ours."""


def value_of(node: yaml.Node) -> Any:
    """The Python value of a scalar; None for a mapping or sequence. RefusedError tells of a wrong tag."""
    tag = node.tag.removeprefix(_TAG)
    text = node.value
    # A list that is tagged as text, or the other way round, is none of ours.
    if isinstance(node, yaml.CollectionNode) == (tag in ("map", "seq")):
        if tag in ("null", "map", "seq"):
            return None
        if tag == "str":
            return text
        if tag in ("int", "float"):
            return _number(text, tag)
        if tag == "bool" and text.lower() in yaml.SafeLoader.bool_values:
            return yaml.SafeLoader.bool_values[text.lower()]
        if tag == "bool":
            raise RefusedError(f"'{text}' is neither true nor false")
    short = "!!" * (tag != node.tag) + tag
    raise RefusedError(f"the tag '{short}' is not supported; values are plain YAML")


def _number(text: str, tag: str) -> int | float:
    plain = text.replace("_", "").lower()
    # Python refuses to print longer integers.
    if tag == "int" and len(plain) > 4000:
        raise RefusedError(f"an integer of {len(plain)} digits is too long")
    try:
        if tag == "int":
            prefix = plain.lstrip("+-")[:2]
            return int(plain, {"0x": 16, "0o": 8, "0b": 2}.get(prefix, 10))
        return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        kind = "an integer" if tag == "int" else "a number"
        raise RefusedError(f"'{text}' is not {kind}") from None


def dump_yaml(value: Any) -> str:
    """YAML text of plain containers, or a TypeError; `${` is escaped, so that text stays text."""
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
    """The text of a file: UTF-8, with or without a byte-order mark; a ConfigError says why it cannot be."""
    near = None
    line = None
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
        if name not in stems:
            name = nearest(name, stems) or name
        if name in stems:
            return stems[name]
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
