"""PyTorch state dicts for Paddle models, with an account of every key.

What is general is here: Paddle keeps a Linear's weight as ``[in, out]`` where PyTorch has
``[out, in]``, and names BatchNorm's statistics ``_mean`` and ``_variance``. Which names a family
changes stands next to that family, as data (``torch_key_rules``).

Whether a weight is transposed depends on the kind of LAYER that takes it, never on its number
of dimensions or its shape: square Linear weights must be turned, embedding tables must not.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl_sot.modeling.backbones.base import Backbone

__all__ = ["ConversionError", "ConversionReport", "convert_state_dict"]

_STATISTICS = ((r"(^|\.)running_mean$", r"\1_mean"), (r"(^|\.)running_var$", r"\1_variance"))
_TABLE_TOLERANCE = 1e-5  # sinusoids of two libraries differ in the last bits only


class ConversionError(ValueError):
    """A state dict does not fit the model; the text is the report."""


@dataclass
class ConversionReport:
    """What became of every key of both sides.

    Attributes:
        loaded: Names in the model that got a value.
        renamed: (name in PyTorch, name in the model) where the two differ.
        ignored: (name in PyTorch, reason) for keys that rightly have no place.
        missing: Names in the model that got nothing.
        unexpected: (name in PyTorch, nearest free names in the model) for keys without a place.
        mismatched: (name in PyTorch, name in the model, shape there, shape wanted), shapes as
            PyTorch has them.
        conflicts: Sentences about keys that contradict the model or each other.
    """

    loaded: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[tuple[str, list[str]]] = field(default_factory=list)
    mismatched: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every key of both sides is accounted for."""
        return not (self.missing or self.unexpected or self.mismatched or self.conflicts)

    def raise_if_bad(self) -> None:
        """Raise :class:`ConversionError` unless ``ok``."""
        if not self.ok:
            raise ConversionError(str(self))

    def __str__(self) -> str:
        head = f"{len(self.loaded)} loaded ({len(self.renamed)} renamed), {len(self.ignored)} ignored"
        bad = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "in conflict": self.conflicts,
        }
        counts = [f"{len(items)} {word}" for word, items in bad.items() if items]
        lines = [("the state dict does not fit: " if counts else "all keys accounted for: ") + head]
        lines[0] += "".join(f", {count}" for count in counts)
        lines += [f"  ignored     {name}: {reason}" for name, reason in self.ignored]
        lines += [f"  missing     {name}" for name in self.missing]
        lines += [
            f"  unexpected  {name}" + (f" (did you mean {' or '.join(near)}?)" if near else "")
            for name, near in self.unexpected
        ]
        lines += [
            f"  mismatched  {name} {list(got)} -> {target}, which wants {list(want)}{_class_hint(got, want)}"
            for name, target, got, want in self.mismatched
        ]
        lines += [f"  in conflict {sentence}" for sentence in self.conflicts]
        return "\n".join(lines)


def _class_hint(got: tuple[int, ...], want: tuple[int, ...]) -> str:
    same_rest = len(got) == len(want) and got[1:] == want[1:] and len(got) in (1, 2)
    return f" (another number of classes? {got[0]} there, {want[0]} here)" if same_rest else ""


def convert_state_dict(
    model: nn.Layer, state: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], ConversionReport]:
    """Turn a PyTorch state dict into one for ``model``; the model is not changed.

    Args:
        model: A classifier, a backbone, or one piece of them (a head, a token embedding) with
            the state dict of that piece.
        state: Names of the official code to arrays, flat; a leading ``module.`` is removed.

    Returns:
        The state dict for ``model.set_state_dict`` (NumPy arrays in the model's types), and the
        report. Nothing raises on a misfit: see ``report.ok`` and ``report.raise_if_bad()``.
    """
    report = ConversionReport()
    slots, tables = _slots(model), _tables(model)
    out: dict[str, np.ndarray] = {}
    source_of: dict[str, str] = {}
    strays: list[tuple[str, str]] = []
    for source, raw in state.items():
        if source.endswith("num_batches_tracked"):
            report.ignored.append((source, "PyTorch's step counter of a BatchNorm; Paddle keeps none"))
            continue
        target = _rename(model, source)
        value = np.asarray(raw)
        if target in tables:
            _check_table(source, value, tables[target], report)
        elif target not in slots:
            strays.append((source, target))
        elif target in source_of:
            report.conflicts.append(f"{source} and {source_of[target]} both mean {target}")
        else:
            source_of[target] = source
            _place(source, target, value, slots[target], out, report)
    report.missing = [name for name in slots if name not in source_of]
    for source, target in strays:
        report.unexpected.append((source, difflib.get_close_matches(target, report.missing, n=2)))
    return out, report


def _rename(model: nn.Layer, name: str) -> str:
    name = re.sub(r"^(module\.)+", "", name)
    for pattern, replacement in (*getattr(model, "torch_key_rules", ()), *_STATISTICS):
        name = re.sub(pattern, replacement, name)
    # The rules give a classifier's names; a backbone by itself has no such prefix.
    return name.removeprefix("backbone.") if isinstance(model, Backbone) else name


@dataclass(frozen=True)
class _Slot:
    """A place in the model: shape and type there, and whether a Linear's weight lies in it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_linear: bool

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.is_linear else self.shape


def _slots(model: nn.Layer) -> dict[str, _Slot]:
    """All keys of the model's state dict, with the kind of layer that owns each."""
    linear_weights = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, layer in model.named_sublayers(include_self=True)
        if isinstance(layer, nn.Linear)
    }
    return {
        name: _Slot(tuple(value.shape), _numpy_type(value), name in linear_weights)
        for name, value in model.state_dict().items()
    }


def _tables(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Buffers that the model computes by itself and never saves, such as sinusoid tables."""
    saved = model.state_dict().keys()
    return {name: value for name, value in model.named_buffers() if name not in saved}


def _numpy_type(value: paddle.Tensor) -> np.dtype:
    # NumPy has no bfloat16; Paddle casts float32 values when it sets them.
    return np.dtype("float32") if value.dtype == paddle.bfloat16 else value.numpy().dtype


def _place(
    source: str,
    target: str,
    value: np.ndarray,
    slot: _Slot,
    out: dict[str, np.ndarray],
    report: ConversionReport,
) -> None:
    got = value.shape
    if slot.is_linear and value.ndim == 4 and got[2:] == (1, 1):
        value = value[:, :, 0, 0]  # a 1×1 convolution is a Linear
    if value.shape != slot.torch_shape:
        report.mismatched.append((source, target, got, slot.torch_shape))
        return
    out[target] = np.ascontiguousarray(value.T if slot.is_linear else value).astype(slot.dtype)
    out[target] = out[target].reshape(slot.shape)  # ascontiguousarray gives a scalar one axis
    report.loaded.append(target)
    if source != target:
        report.renamed.append((source, target))


def _check_table(source: str, value: np.ndarray, table: paddle.Tensor, report: ConversionReport) -> None:
    if value.shape != tuple(table.shape):
        reason = f"a fixed table for another size ({list(value.shape)}); the model computes its own"
        report.ignored.append((source, reason))
        return
    worst = float(np.abs(value.astype("float64") - table.numpy().astype("float64")).max())
    if worst <= _TABLE_TOLERANCE:
        report.ignored.append((source, f"a fixed table, equal to the model's own (within {worst:.1e})"))
    else:
        report.conflicts.append(
            f"{source}: a fixed table that differs from the model's own by up to {worst:.1e}; it was "
            "learned, or belongs to another model"
        )
