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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from passl_sot.weights.errors import CheckpointError

Maker = Callable[..., Any]
_SCALARS = (str, bytes, int, float, complex, type(None))
_MARK = object()
_PUSHED = frozenset(
    {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """A dotted name that a pickle mentions. Nothing was imported."""

    text: str


class Inert:
    """Base of values that take a state after they were made (pickle's `__setstate__`)."""

    state: Any = None

    def build(self, state: Any) -> None:
        """Keeps the state, unread."""
        self.state = state


class Record(Inert):
    """An object of a class that is not loaded: its class's name, arguments and state."""

    def __init__(self, kind: str, *args: Any) -> None:
        self.kind = kind
        self.args = args

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class DType(Inert):
    """A NumPy type in the making; plain numbers and texts only."""

    def __init__(self, code: str = "", *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[?biufcUS]\d*", code):
            raise CheckpointError(f"it holds an array of type {code!r}, not of numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Takes the byte order, the one thing a number's state adds."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Array(Inert):
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


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> Array:
    array = Array()
    array.value = _array(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _array(raw, dtype, ())[()]


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise CheckpointError(f"it asks for the encoding {encoding!r}, which weights don't need")
    return text.encode(encoding)


def _set(items: Iterable[Any] = ()) -> set:
    return {_key(item) for item in items}


def _frozenset(items: Iterable[Any] = ()) -> frozenset:
    return frozenset(_set(items))


def _mapping(*args: Any) -> dict:
    # OrderedDict(pairs), Counter(mapping) and defaultdict(factory, mapping) alike become a dict.
    content: Any = ()
    if args and not isinstance(args[-1], Name):
        content = args[-1] or ()
    if isinstance(content, Mapping):
        content = content.items()
    return {_key(key): value for key, value in content}


NUMPY_MAKERS: dict[str, Maker] = {
    "builtins.bytes": lambda: b"",  # protocols before 3 have no instruction for it
    "builtins.tuple": tuple,
    "builtins.list": list,
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
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.multiarray._reconstruct": Array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
_MADE_OF_ITEMS: dict[str, Maker] = {"LIST": list, "TUPLE": tuple, "FROZENSET": _frozenset}
_FROM_MARK = {*_MADE_OF_ITEMS, "APPENDS", "SETITEMS", "DICT", "ADDITEMS", "OBJ", "INST", "POP_MARK"}
_ON_LAST = {"POP", "APPEND", "SETITEM", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BINPERSID", "BUILD"}
NUMPY_LEAVES = frozenset({"numpy.ndarray", "builtins.int", "builtins.float", "builtins.bool", "builtins.str"})


def plain(value: Any) -> Any:
    """The array of an `Array`, anything else as it is."""
    return value.value if isinstance(value, Array) else value


def load_pickle(
    file: BinaryIO,
    makers: Mapping[str, Maker] = NUMPY_MAKERS,
    leaves: frozenset[str] = NUMPY_LEAVES,
    persistent: Maker | None = None,
) -> Any:
    """Reads one pickle from where `file` stands, up to and with its last instruction.

    Args:
        file: Binary file.
        makers: Functions that make a value where the pickle calls one of these names.
        leaves: Names that a pickle may mention and not call.
        persistent: Makes a value from a persistent identifier; None refuses them.

    Raises:
        CheckpointError: It asks for a name on neither list, or is damaged. The message has no file name.
    """
    machine = _Machine(makers, leaves, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        return machine.result()
    except CheckpointError:
        raise
    except MemoryError as error:  # of a length in the file that no file has
        raise CheckpointError("it is damaged (it asks for more memory than there is)") from error
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"it is damaged ({type(error).__name__}: {error})") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"it is damaged ({error})") from error


def _key(value: Any) -> Any:
    """The value, if it may be a key."""
    parts = value if isinstance(value, tuple) else (value,)
    # No tuples of tuples: hashing deeply nested ones would exhaust the C stack.
    if not all(isinstance(part, (*_SCALARS, Name, np.generic)) for part in parts):
        raise CheckpointError(f"it has a {type(value).__name__} as a key, which weights don't need")
    return value


class _Machine:
    """The stack and memory of one pickle."""

    def __init__(self, makers: Mapping[str, Maker], leaves: frozenset[str], persistent: Maker | None) -> None:
        self.makers = makers
        self.leaves = leaves
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise CheckpointError(f"it is damaged ({len(self.stack)} values at the end of a pickle)")
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _FRESH:
            stack.append(_FRESH[name]())
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            if argument is None:  # MEMOIZE counts by itself
                argument = len(self.memory)
            self.memory[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in _FROM_MARK:
            self.close(name, self.from_mark(), argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self.change(name, argument)

    def from_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise CheckpointError("it is damaged (a pickle that closes what it never opened)")

    def close(self, name: str, items: list[Any], argument: Any) -> None:
        """An instruction that takes all items down to the last mark."""
        stack = self.stack
        if name in _MADE_OF_ITEMS:
            stack.append(_MADE_OF_ITEMS[name](items))
        elif name == "APPENDS":
            self.extend(items)
        elif name == "SETITEMS":
            self.set_items(items)
        elif name == "DICT":
            stack.append({})
            self.set_items(items)
        elif name == "ADDITEMS":  # sets of protocol 4; earlier ones call builtins.set
            if not isinstance(stack[-1], set):
                raise CheckpointError("it is damaged (values added to what is no set)")
            stack[-1].update(_set(items))
        # OBJ and INST are how protocols 0 and 1 made instances of old-style classes.
        elif name == "OBJ":
            stack.append(self.make(items[0], tuple(items[1:])))
        elif name == "INST":
            stack.append(self.make(self.name(argument.replace(" ", ".", 1)), tuple(items)))

    def change(self, name: str, argument: Any) -> None:
        """An instruction that takes single values off the stack, or none."""
        stack = self.stack
        if name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(self.name(argument.replace(" ", ".", 1)))
        elif name == "PERSID":
            stack.append(self.refer(argument))
        elif name not in _ON_LAST:
            raise CheckpointError(f"it has the pickle instruction {name}, which weights don't need")
        else:
            self.take(name, stack.pop())

    def take(self, name: str, last: Any) -> None:
        """An instruction that takes the last value off the stack, and at times the one before it."""
        stack = self.stack
        if name == "APPEND":
            self.extend([last])
        elif name == "SETITEM":
            self.set_items([stack.pop(), last])
        elif name == "STACK_GLOBAL":
            stack.append(self.name(f"{stack.pop()}.{last}"))
        elif name in ("REDUCE", "NEWOBJ"):  # NEWOBJ, cls.__new__(cls, *arguments), is the same to a maker
            stack.append(self.make(stack.pop(), last))
        elif name == "NEWOBJ_EX":  # protocol 4, for classes whose __new__ takes keyword arguments
            if last:
                raise CheckpointError("it makes an object with named arguments, which weights don't need")
            self.take("REDUCE", stack.pop())
        elif name == "BINPERSID":
            stack.append(self.refer(last))
        elif name == "BUILD" and isinstance(stack[-1], Inert):
            stack[-1].build(last)
        # Attributes of a dictionary, such as versions, are not needed.
        elif name == "BUILD" and not isinstance(stack[-1], dict):
            raise CheckpointError(f"it is damaged (a state for a {type(stack[-1]).__name__})")

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise CheckpointError("it is damaged (values appended to what is no list)")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise CheckpointError("it is damaged (entries set in what is no dictionary)")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def name(self, text: str) -> Name:
        text = text.replace("__builtin__.", "builtins.", 1)  # Python 2's
        if text not in self.makers and text not in self.leaves:
            raise CheckpointError(f"it asks for {text}, which weights don't need; refused, nothing was run")
        return Name(text)

    def make(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or function.text not in self.makers:
            shown = getattr(function, "text", f"a {type(function).__name__}")
            raise CheckpointError(f"it calls {shown}, which weights don't need; refused, nothing was run")
        if not isinstance(arguments, tuple):
            raise CheckpointError(f"it is damaged ({function.text} without its arguments)")
        return self.makers[function.text](*arguments)

    def refer(self, identifier: Any) -> Any:
        if self.persistent is None:
            raise CheckpointError("it refers to data outside the pickle, which weights of this kind don't")
        return self.persistent(identifier)
