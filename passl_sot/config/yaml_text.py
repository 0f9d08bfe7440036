"""YAML text to plain values with their places, and back: PyYAML's safe rules, YAML 1.2's number formats."""

import functools
import glob
import os
import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

from passl_sot.config.errors import (
    COMMAND_LINE,
    ConfigError,
    Fault,
    Origin,
    did_you_mean,
    join_path,
    nearest,
    show,
)

MAX_DEPTH = 100  # Python's own limit of 1000 calls would end in a traceback
# Aliases and references can make a short file enormous; no honest configuration comes near this.
MAX_VALUES = 100_000
_MOST_BYTES = 10_000_000
_KEPT_LENGTH = 20_000  # characters of a text whose nodes are kept for the next time
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
# YAML 1.1 wants a dot and a signed exponent (5e-4 is text there) and reads 12:30 as base 60; 1.2 does not.
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_INT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*|[-+]?0x[0-9a-fA-F][0-9a-fA-F_]*|[-+]?0o[0-7][0-7_]*|[-+]?0b[01][01_]*)$"
)
# PyYAML's rules that stay: true/false/yes/no, null and "<<". Dates and a lone "=" are text here.
_KEPT = (f"{_TAG}bool", f"{_TAG}null", _MERGE)
_WHOLE_NUMBER = re.compile("0|[1-9][0-9]*")


class _Loader(yaml.SafeLoader):
    """SafeLoader with other number formats; only its composer is used."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {
        first: [rule for rule in rules if rule[0] in _KEPT]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever either set of number formats would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # lists stand indented below their key

    def represent_list(self, data: list[Any]) -> yaml.Node:
        return self.represent_sequence(f"{_TAG}seq", data, flow_style=not is_block(data))

    def represent_text(self, data: str) -> yaml.Node:
        # Unprintable characters need double quotes.
        return self.represent_scalar(f"{_TAG}str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(str, _Dumper.represent_text)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
    _kind.add_implicit_resolver(f"{_TAG}int", _INT, list("-+.0123456789"))


@functools.lru_cache(maxsize=128)
def _nodes(text: str) -> yaml.Node | None:
    """PyYAML's nodes, which nobody changes: most files have the same few bases."""
    return yaml.compose(text, _Loader)


def _compose(text: str, file: str, quote: bool) -> yaml.Node | None:
    """PyYAML's nodes of one document, or None if it is empty."""
    line = 1
    compose = _nodes if len(text) <= _KEPT_LENGTH else _nodes.__wrapped__
    try:
        return compose(text)
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        message = f"the character {chr(err.character)!r} is not allowed in YAML"
    except yaml.MarkedYAMLError as err:
        line, message, source = _plain_words(err, text)
        if source and quote:
            message += f"; the line reads: {source}"
    except RecursionError:
        message = "nested too deeply"
    except (ValueError, TypeError, IndexError) as err:  # PyYAML leaks a few, e.g. for "\UFFFFFFFF"
        message = f"not valid YAML: {err}" if quote else "not valid YAML"
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


def _plain_words(err: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    """The line to look at, its fault, and what it reads."""
    line = err.problem_mark.line + 1
    opened = (err.context_mark or err.problem_mark).line + 1
    problem = err.problem
    context = err.context or ""
    lines = text.splitlines()
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
        known = (ours for part, ours in _IN_WORDS.items() if part in problem)
        words = next(known, f"{problem} {context}".strip())
    source = "".join(lines[line - 1 : line]).strip()
    if len(source) > 60:
        source = source[:57] + "..."
    return min(line, max(len(lines), 1)), f"not valid YAML: {words}", source


def _integer(text: str) -> int:
    plain = text.replace("_", "").lower()
    number = int(plain, {"0x": 16, "0o": 8, "0b": 2}.get(plain.lstrip("+-")[:2], 10))
    str(number)  # Python refuses to print very long ones
    return number


def _float(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


# By tag: the value of a scalar, and the fault of one that has none.
_SCALARS: dict[str, tuple[Callable[[str], Any], str]] = {
    "null": (lambda text: None, ""),
    "str": (str, ""),
    "bool": (lambda text: yaml.SafeLoader.bool_values[text.lower()], "neither true nor false"),
    "int": (_integer, "not an integer"),
    "float": (_float, "not a number"),
}


class Builder:
    """The value of a YAML text that stands at `path` in a tree, and where all in it was written.

    Attributes:
        value: Plain dicts, lists and scalars; None for an empty text.
        origins: By dotted path; empty for an empty text. There are also paths that others replaced.
        faults: What is not of the configuration language. A ConfigError says what is no YAML at all; with
            `quote` it shows the line.
    """

    def __init__(self, text: str, file: str, path: str = "", *, quote: bool = True):
        self.faults: list[Fault] = []
        self.origins: dict[str, Origin] = {}
        self._file = file
        self._count = 0
        source = _compose(text, file, quote)
        self.value = None if source is None else self._build(source, path, ())

    def _build(self, source: yaml.Node, path: str, around: tuple[yaml.Node, ...]) -> Any:
        """The value of a node that stands inside of `around`; aliases give independent copies."""
        self._count += 1
        if self._count > MAX_VALUES:
            message = f"more than {MAX_VALUES} values; do aliases multiply?"
            raise ConfigError([Fault("", message, self._origin(source), "yaml")])
        if len(around) > MAX_DEPTH:
            raise ConfigError([Fault("", "nested too deeply", self._origin(source), "yaml")])
        value: Any = None
        inside = (*around, source)
        if source in around:
            self._note(source, path, "an alias (*) stands inside what it stands for")
        elif isinstance(source, yaml.MappingNode) and source.tag == f"{_TAG}map":
            value = self._mapping(source, path, inside)
        elif isinstance(source, yaml.SequenceNode) and source.tag == f"{_TAG}seq":
            value = [self._build(item, join_path(path, i), inside) for i, item in enumerate(source.value)]
        else:
            value = self._scalar(source, path)
        self.origins[path] = self._origin(source)
        return value

    def _scalar(self, source: yaml.Node, path: str) -> Any:
        tag = source.tag.removeprefix(_TAG)
        # A list that is tagged as text, or the other way round, is none of ours.
        if not isinstance(source, yaml.ScalarNode) or tag not in _SCALARS:
            short = "!!" * (tag != source.tag) + tag
            return self._note(source, path, f"the tag '{short}' is not supported; values are plain YAML")
        make, wrong = _SCALARS[tag]
        try:
            return make(source.value)
        except (ValueError, KeyError):
            return self._note(source, path, f"{show(source.value)} is {wrong}")

    def _mapping(self, source: yaml.MappingNode, path: str, around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        parts: list[yaml.Node] = []
        for key_node, value_node in source.value:
            if key_node.tag == _MERGE:
                parts += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        for item in reversed(parts):  # of several, the first wins
            part = self._build(item, path, around)
            if isinstance(part, dict):
                merged.update(part)
            else:
                self._note(item, path, "'<<' wants a mapping, or a list of mappings")
        for key_node, value_node in source.value:
            key = None if key_node.tag == _MERGE else self._key(key_node, path)
            place = join_path(path, key)
            if key is None:
                continue
            if key in own:
                line = self.origins[place].line
                also = f", first in line {line}" * bool(line)
                message = f"the key '{key}' is given twice{also}; keep one of the two"
                self._note(key_node, place, message, "duplicate")
                continue
            if key == "_base_" and path:
                self._note(key_node, place, "'_base_' works only at the top level of a file", "base")
            own[key] = self._build(value_node, place, around)
            self.origins[place] = self._origin(key_node)  # a key is what a reader looks for
        return {**merged, **own}

    def _key(self, source: yaml.Node, path: str) -> str | None:
        text = source.value
        message = "a key must be a single word, not a list or mapping (is a '{' or '[' meant as text?)"
        if isinstance(source, yaml.ScalarNode):
            # Whole numbers are keys of schedules, such as {0: 0.4, 260: 0.6}.
            if source.tag.endswith(":str") or (path and _WHOLE_NUMBER.fullmatch(text)):
                return str(text)
            kind = {"bool": "true or false", "null": "null"}.get(source.tag.rpartition(":")[2], "a number")
            message = f"keys are text; YAML reads {text or 'an empty key'} as {kind}"
            if text:
                message += f", so write '{text}' with the quotes"
        self._note(source, path, message)
        return None

    def _origin(self, source: yaml.Node) -> Origin:
        line = None if self._file == COMMAND_LINE else source.start_mark.line + 1
        return Origin(self._file, line)

    def _note(self, source: yaml.Node, path: str, message: str, kind: str = "yaml") -> None:
        self.faults.append(Fault(path, message, self._origin(source), kind))


def is_block(value: Any) -> bool:
    """Whether a value takes lines of its own in a file: a section, or a list of sections or lists."""
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value)


def dump_yaml(value: Any) -> str:
    """YAML text of plain containers, or a TypeError; `${` is escaped, so that text stays text."""
    plain = _writable(value, "")
    options = {"sort_keys": False, "allow_unicode": True, "default_flow_style": False}
    return yaml.dump(plain, Dumper=_Dumper, width=10**6, **options)


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
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:  # such as a device without an end
            raise ValueError(f"it has more than {_MOST_BYTES / 1e6:.0f} MB, which no config has")
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
    """The YAML file most likely meant: one in or below the same folder, else one below the folder around."""
    folder = os.path.dirname(path)
    name = os.path.splitext(os.path.basename(path))[0]
    for place in (folder, os.path.dirname(folder)):
        files = {os.path.splitext(os.path.basename(file))[0]: file for file in reversed(_yaml_files(place))}
        meant = name if name in files else nearest(name, files)
        if meant:
            return files[meant]
    return None


def _yaml_files(folder: str) -> list[str]:
    """The YAML files in a folder and, two levels deep, below it; a typing error must not search a disk."""
    found: list[str] = []
    for depth in ("", "*/", "*/*/"):
        found += sorted(glob.glob(f"{depth}*.y*ml", root_dir=folder or "."))
    return [os.path.normpath(os.path.join(folder, name)) for name in found]
