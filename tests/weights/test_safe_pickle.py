"""The pickle machine: the same values as Python's own, and nothing is ever run."""

import io
import os
import pickle
import pickletools
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl_sot.weights import CheckpointError
from passl_sot.weights.safe_pickle import load_pickle, plain

keys = st.one_of(st.text(max_size=5), st.integers(), st.none(), st.booleans(), st.binary(max_size=5))
values = st.recursive(
    st.one_of(keys, st.floats(allow_nan=False), st.text(), st.integers(-(2**80), 2**80)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=values, protocol=st.integers(0, 5))
def test_values_as_python_reads_them(value, protocol):
    data = pickle.dumps(value, protocol)
    assert load_pickle(io.BytesIO(data)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype="i2").reshape(2, 3)),
        np.array(3.5, "f4"),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.arange(3, dtype=">f8"),
        np.array([1 + 2j]),
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_arrays(array, protocol):
    got = plain(load_pickle(io.BytesIO(pickle.dumps(array, protocol))))
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_training_keeps_beside_weights(protocol):
    shared = [1]
    value = {
        "a": OrderedDict(x=1),
        "b": defaultdict(list, k=[2]),
        "c": Counter("aab"),
        "d": np.float32(81.5),
        "e": (shared, shared),
        "f": np.str_("text"),
    }
    got = load_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert got == value
    assert got["e"][0] is got["e"][1]


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


def evil(name: str, *arguments: str) -> bytes:
    """A call by its bare instructions: GLOBAL, arguments, TUPLE, REDUCE, STOP."""
    module, _, attribute = name.rpartition(".")
    text = b"".join(b"V" + argument.encode() + b"\n" for argument in arguments)
    return f"c{module}\n{attribute}\n".encode() + b"(" + text + b"tR."


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch ran",), "posix.system"),
        (eval, ("open('ran', 'w')",), "builtins.eval"),
        (getattr, (1, "real"), "builtins.getattr"),
        (pickle.loads, (b"N.",), "pickle.loads"),
        (np.load, ("ran",), "numpy.load"),
    ],
)
def test_a_call_is_refused_by_name(function, arguments, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (
        Call(function, *arguments),
        {"a": [Call(function, *arguments)]},
        (1, {"k": Call(function)}),
    ):
        with pytest.raises(CheckpointError, match=rf"asks for _?{name}, .* nothing was run"):
            load_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (evil("os.system", "true"), "asks for os.system"),
        (evil("__builtin__.eval", "1"), "asks for builtins.eval"),
        (evil("subprocess.Popen", "true"), "asks for subprocess.Popen"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"(cos\nsystem\no.", "asks for os.system"),
        (b"(cbuiltins\nlist\no.", "instruction OBJ"),
        (b"cbuiltins\nint\n(tR.", "calls builtins.int"),
        (b"\x80\x02K\x01)R.", "calls a int"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"Pposix\n.", "refers to data outside"),
        (b"\x80\x02]}b.", "a state for a list"),
        (b"\x80\x02}]K\x01s.", "a list as a key"),
        (b"\x80\x02}(" + b"N" + b"\x85" * 9 + b"K\x01u.", "a tuple as a key"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "is damaged"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", None),
        (b"\x80\x02h\x05.", "is damaged"),
        (b"\x80\x02NN.", "2 values at the end"),
        (b"\x80\x02.", "0 values"),
        (b"\x80\x02t.", "closes what it never opened"),
        (b"", "is damaged"),
        (b"\xff\xff", "is damaged"),
        (b"cnumpy\ndtype\n(VO8\ntR.", "an array of type 'O8', not of numbers"),
        (b"cnumpy\ndtype\n(Vf4,f4\ntR.", "not of numbers"),
    ],
)
def test_bare_instructions(data, message):
    if message is None:
        load_pickle(io.BytesIO(data))
        return
    with pytest.raises(CheckpointError, match=message.replace(".", "[.]")):
        load_pickle(io.BytesIO(data))


def test_arrays_of_objects_are_refused():
    data = pickle.dumps(np.array([{}, None], dtype=object))
    with pytest.raises(CheckpointError, match="not of numbers"):
        load_pickle(io.BytesIO(data))


def test_classes_of_the_machine_cannot_be_changed():
    """A state for a name would set attributes in Python; here a name is only a text."""
    data = b"ccollections\nOrderedDict\n}Vx\nK\x01sb."
    with pytest.raises(CheckpointError, match="a state for a Name"):
        load_pickle(io.BytesIO(data))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_value_or_one_kind_of_error(data):
    try:
        load_pickle(io.BytesIO(data))
    except CheckpointError as error:
        assert str(error)


def test_truncation_is_an_error_everywhere():
    data = pickle.dumps({"a": np.arange(5.0), "b": OrderedDict(x=[1, 2])}, 4)
    assert pickletools.genops(data)
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            load_pickle(io.BytesIO(data[:length]))
