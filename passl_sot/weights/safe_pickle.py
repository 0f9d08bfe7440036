"""Pickles as data: a machine that builds containers and numbers, and can't import or call anything.

A pickle is a program: Python's own `pickle.load` runs whatever the file says. Here its instructions are
decoded with `pickletools` and carried out on plain values. A name in the file (`GLOBAL`) stays a name; where
the file "calls" one, a function that the reader provided for exactly that name makes the value. A name that
is on no list ends the reading with an error that spells it.
"""

# An `Unpickler` with a `find_class` of ours would not do: a hostile file can make its memo table take all
# memory, and hash tuples nested deeply enough to exhaust the C stack.

import pickletools
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np

from passl_sot.weights import CheckpointError
from passl_sot.weights.budget import Budget

Maker = Callable[..., Any]
_T = TypeVar("_T")
_SCALARS = (str, bytes, int, float, complex, type(None))


@dataclass(frozen=True)
class Name:
    """A dotted name that a pickle mentions. Nothing was imported."""

    text: str


class Record:
    """An object of a class that is not loaded, with the state that it takes after it was made."""

    state: Any = None

    def __init__(self, *_: Any) -> None: ...

    def build(self, state: Any) -> None:
        """Keeps the state, unread; in place of pickle's `__setstate__`."""
        self.state = state


class DType(Record):
    """A NumPy type in the making; plain numbers and texts only."""

    def __init__(self, code: str = "", *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[?biufcUS]\d*", code):
            raise CheckpointError(f"it holds an array of type {reprlib.repr(code)}, not of numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Takes the byte order, the one thing a number's state adds."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Array(Record):
    """A NumPy array in the making; `value` is the array."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0)

    def build(self, state: Any) -> None:
        """Takes shape, type, order and bytes."""
        shape, dtype, fortran, raw = state[-4:]
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    if isinstance(raw, str):
        raw = raw.encode("latin1")  # as Python 2 and protocol 2 write bytes
    if not isinstance(dtype, DType) or not isinstance(raw, bytes | bytearray):
        raise CheckpointError("it holds an array of Python objects, not of numbers")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _array(raw, dtype, ())[()]


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise CheckpointError(f"it asks for the encoding {reprlib.repr(encoding)}, which weights don't need")
    return text.encode(encoding)


def _items(value: Any = ()) -> Iterable[Any]:
    """What a container is made of; not of a text's or an array's parts, which would be made for it."""
    if not isinstance(value, list | tuple | dict | set | frozenset):
        raise CheckpointError(f"it makes a container of a {type(value).__name__}, which weights don't need")
    return value


def _list(items: Iterable[Any] = ()) -> list:
    return list(_items(items))


def _tuple(items: Iterable[Any] = ()) -> tuple:
    return tuple(_items(items))


def _set(items: Iterable[Any] = ()) -> set:
    return {_key(item) for item in _items(items)}


def _frozenset(items: Iterable[Any] = ()) -> frozenset:
    return frozenset(_set(items))


def _mapping(*args: Any) -> dict:
    # OrderedDict(pairs), Counter(mapping) and defaultdict(factory, mapping) alike become a dict.
    content: Any = ()
    if args and not isinstance(args[-1], Name):
        content = args[-1] or ()
    pairs = content.items() if isinstance(content, Mapping) else _items(content)
    return {_key(key): value for key, value in pairs}


# What a pickle may mention, and the function that makes a value where it is called; None: it may not be.
NUMPY_NAMES: dict[str, Maker | None] = {
    "builtins.bytes": lambda: b"",  # protocols before 3 have no instruction for it
    "builtins.tuple": _tuple,
    "builtins.list": _list,
    "builtins.dict": _mapping,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.complex": complex,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "_codecs.encode": _encode,
    "numpy.dtype": DType,
    # NumPy 1's names, then NumPy 2's.
    "numpy.core.multiarray._reconstruct": Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "numpy._core.multiarray._reconstruct": Array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array,
    **dict.fromkeys(("numpy.ndarray", "builtins.int", "builtins.float", "builtins.bool", "builtins.str")),
}


def plain(value: Any) -> Any:
    """The array of an `Array`, anything else as it is."""
    return value.value if isinstance(value, Array) else value


def _refuse(identifier: Any) -> Any:
    raise CheckpointError("it refers to data outside the pickle, which weights of this kind don't")


def load_pickle(
    file: BinaryIO,
    names: Mapping[str, Maker | None] = NUMPY_NAMES,
    persistent: Maker = _refuse,
    *,
    budget: Budget | None = None,
) -> Any:
    """Reads one pickle from where `file` stands, up to and with its last instruction.

    Args:
        file: Binary file.
        names: As `NUMPY_NAMES`; any other name ends the reading.
        persistent: Makes a value from a persistent identifier; by default they are refused.
        budget: What may be made; by default as little as of an empty file.

    Raises:
        CheckpointError: It asks for another name, for more than the budget has, or is damaged. The message
            has no file name.
    """
    machine = _Machine(names, persistent, budget or Budget(0))
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
    except CheckpointError:
        raise
    except MemoryError as error:  # of a length in the file that no file has
        raise CheckpointError("it is damaged (it asks for more memory than there is)") from error
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"it is damaged ({type(error).__name__}: {error})") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"it is damaged ({error})") from error
    if len(machine.stack) != 1:
        raise CheckpointError(f"it is damaged ({len(machine.stack)} values at the end of a pickle)")
    return machine.stack[0]


def _key(value: Any) -> Any:
    """The value, if it may be a key."""
    parts = value if isinstance(value, tuple) else (value,)
    # No tuples of tuples: hashing deeply nested ones would exhaust the C stack.
    if not all(isinstance(part, (*_SCALARS, Name, np.generic)) for part in parts):
        raise CheckpointError(f"it has a {type(value).__name__} as a key, which weights don't need")
    return value


def _entries(items: list[Any]) -> dict:
    """A dictionary of keys and values in turn."""
    if len(items) % 2:
        raise CheckpointError("it is damaged (entries set in what is no dictionary)")
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _cost(value: Any) -> int:
    """Bytes of memory that a value takes without what it refers to."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    # Objects have attributes.
    return sys.getsizeof(value) + 512 * hasattr(value, "__dict__")


_MARK = object()
_MEMOIZED = 100  # bytes of memory of an entry, nearly
_HANDED = 64  # what a value among a call's arguments, or in one of them, counts: for its time
# Instructions whose value stands in the file. LONG4, for numbers of over 600 digits, isn't needed.
_PUSHED = frozenset(
    {"INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
# Instructions that make one value of those that they take.
_MADE: dict[str, Callable[[list[Any]], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "MARK": lambda _: _MARK,
    **dict.fromkeys(("EMPTY_LIST", "LIST"), list),
    **dict.fromkeys(("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"), tuple),
    **dict.fromkeys(("EMPTY_DICT", "DICT"), _entries),
    "EMPTY_SET": set,
    "FROZENSET": _frozenset,
}
# How many values an instruction takes off the stack; None: all down to the last mark.
_TAKES: dict[str, int | None] = {
    **dict.fromkeys(("POP", "APPEND", "BINPERSID", "BUILD", "TUPLE1"), 1),
    **dict.fromkeys(("SETITEM", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "TUPLE2"), 2),
    "TUPLE3": 3,
    **dict.fromkeys(("POP_MARK", "APPENDS", "SETITEMS", "ADDITEMS")),
    **dict.fromkeys(("LIST", "TUPLE", "DICT", "FROZENSET")),
}


class _Machine:
    """The stack and memory of one pickle."""

    def __init__(self, names: Mapping[str, Maker | None], persistent: Maker, budget: Budget) -> None:
        self.budget = budget
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        stack = self.stack
        items = self.take(_TAKES.get(name, 0))
        if name in _PUSHED:
            self.push(argument)
        elif name in _MADE:
            self.push(_MADE[name](items))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            if argument is None:  # MEMOIZE counts by itself
                argument = len(self.memory)
            self.memory[argument] = stack[-1]
            self.budget.take(_MEMOIZED)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif name in ("APPEND", "APPENDS"):
            self.grow(list, "values appended to what is no list", list.extend, items)
        elif name in ("SETITEM", "SETITEMS"):
            self.grow(dict, "entries set in what is no dictionary", dict.update, _entries(items))
        elif name == "ADDITEMS":  # sets of protocol 4; earlier ones call builtins.set
            self.grow(set, "values added to what is no set", set.update, _set(items))
        elif name == "GLOBAL":
            self.push(self.name(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            self.push(self.name(*items))
        elif name in ("REDUCE", "NEWOBJ"):  # NEWOBJ, cls.__new__(cls, *arguments), is the same to a maker
            self.push(self.make(items[0], items[1]))
        elif name in ("PERSID", "BINPERSID"):
            self.push(self.persistent(*(items or [argument])))
        elif name == "BUILD":
            # Attributes of a dictionary, such as versions, are not needed.
            if not isinstance(stack[-1], dict):
                record = self.last(Record, f"a state for a {type(stack[-1]).__name__}")
                record.build(items[0])
                self.budget.take(_cost(plain(record)))
        elif name not in ("POP", "POP_MARK", "PROTO", "FRAME", "STOP"):
            raise CheckpointError(f"it has the pickle instruction {name}, which weights don't need")

    def take(self, count: int | None) -> list[Any]:
        """Takes so many values, or all down to the last mark, off the stack."""
        start = len(self.stack) - (count or 0)
        if count is None:
            while start and self.stack[start - 1] is not _MARK:
                start -= 1
            if not start:
                raise CheckpointError("it is damaged (a pickle that closes what it never opened)")
        if start < 0:
            raise CheckpointError("it is damaged (an instruction without its values)")
        items = self.stack[start:]
        del self.stack[start - (count is None) :]
        return items

    def push(self, value: Any) -> None:
        """Puts a new value on the stack, at its price."""
        self.budget.take(_cost(value))
        self.stack.append(value)

    def grow(self, kind: type[_T], complaint: str, add: Callable[[_T, Any], Any], items: Any) -> None:
        """Adds to the container on top of the stack, at the price of its growth."""
        container = self.last(kind, complaint)
        before = sys.getsizeof(container)
        add(container, items)
        self.budget.take(sys.getsizeof(container) - before)

    def last(self, kind: type[_T], complaint: str) -> _T:
        """The value on top of the stack, which must be of this kind."""
        if not isinstance(self.stack[-1], kind):
            raise CheckpointError(f"it is damaged ({complaint})")
        return self.stack[-1]

    def name(self, *parts: str) -> Name:
        text = ".".join(parts).replace("__builtin__.", "builtins.", 1)  # Python 2's
        if text not in self.names:
            shown = text[:200]
            raise CheckpointError(f"it asks for {shown}, which weights don't need; refused, nothing was run")
        return Name(text)

    def make(self, function: Any, arguments: Any) -> Any:
        maker = self.names[function.text] if isinstance(function, Name) else None
        if maker is None:
            shown = getattr(function, "text", f"a {type(function).__name__}")
            raise CheckpointError(f"it calls {shown}, which weights don't need; refused, nothing was run")
        if not isinstance(arguments, tuple):
            raise CheckpointError(f"it is damaged ({function.text} without its arguments)")
        # One large container, handed over again and again, would take hours even where little comes of it.
        for held in (arguments, *arguments):
            if isinstance(held, list | tuple | dict | set | frozenset):
                self.budget.take(_HANDED * len(held))
        return maker(*arguments)
