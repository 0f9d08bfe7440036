"""Layers that are one here and several in the files, such as the projections of queries, keys and values.

Their outputs lie one behind the other. A layer is the last but one part of an entry's name.
"""

from collections.abc import Iterator, Mapping

import numpy as np

# Names of layers to those of their parts, as `KeyRules.joined` has them.
Joined = Mapping[str, tuple[str, ...]]
# By the name of a part: its name in the file, and its value.
Found = Mapping[str, tuple[str, np.ndarray]]


def whole_of(name: str, joined: Joined) -> tuple[str, str]:
    """The entry that a part belongs to, and the part's name; for other entries their own name and ""."""
    layer = _layer_of(name)
    for whole, parts in joined.items():
        if layer in parts:
            return _with_layer(name, whole), layer
    return name, ""


def split(name: str, array: np.ndarray, joined: Joined, layout: str) -> Iterator[tuple[str, np.ndarray]]:
    """An entry of the model, laid out as in the file, by its parts; others as they are."""
    parts = joined.get(_layer_of(name))
    if parts is None:
        yield name, array
        return
    for part, value in zip(parts, np.split(array, len(parts), _outputs(layout)), strict=True):
        yield _with_layer(name, part), np.ascontiguousarray(value)


def join(whole: str, found: Found, joined: Joined, layout: str) -> tuple[str, np.ndarray]:
    """Names in the file, as one text, and the value of an entry from its parts.

    Raises:
        ValueError: Some are missing, or of other shapes; the message becomes part of the report.
    """
    parts = joined[_layer_of(whole)]
    present = [found[part] for part in parts if part in found]
    source = " + ".join(name for name, _ in present)
    shapes = {value.shape for _, value in present}
    if len(present) < len(parts) or len(shapes) > 1 or () in shapes:
        raise ValueError(f"{whole} is made of {', '.join(parts)}, of one shape; there is {source}")
    return source, np.concatenate([value for _, value in present], _outputs(layout))


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _with_layer(name: str, layer: str) -> str:
    path, _, leaf = name.rpartition(".")
    return f"{path.rpartition('.')[0]}.{layer}.{leaf}"


def _outputs(layout: str) -> int:
    """The axis over the outputs of a Linear's weight; and of its bias."""
    return 0 if layout == "torch" else -1
