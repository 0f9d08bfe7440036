"""PyTorch state dicts for Paddle models, with an account of every key.

What is general is here: Paddle keeps a Linear's weight as ``[in, out]`` where PyTorch has
``[out, in]``, and names BatchNorm's statistics ``_mean`` and ``_variance``. Which names a family
changes stands in ``weights.rules``, one small file per family.

Whether a weight is transposed depends on the kind of LAYER that takes it, never on its number
of dimensions or its shape: square Linear weights must be turned, embedding tables must not.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

from passl_sot.interop.report import ConversionError, ConversionReport
from passl_sot.modeling.backbones.base import Backbone
from passl_sot.weights.rules import KeyRules, key_rules
from passl_sot.weights.rules.base import Rules

__all__ = [
    "ConversionError",
    "ConversionReport",
    "Slot",
    "backbone_of",
    "computed_tables",
    "convert_state_dict",
    "model_slots",
    "rename",
    "rules_of",
]

_WRAPPERS = r"^((module|_orig_mod)\.)+"  # DataParallel's and torch.compile's
_STATISTICS = ((r"(^|\.)running_mean$", r"\1_mean"), (r"(^|\.)running_var$", r"\1_variance"))
_COUNTERS = {
    "num_batches_tracked": "PyTorch's step counter of a BatchNorm; Paddle keeps none",
    "n_averaged": "PyTorch's counter of averaged models",
}
_TABLE_TOLERANCE = 1e-5  # sinusoids of two libraries differ in the last bits only
_MOST_GUESSES = 100  # names that get "did you mean": of a wrong family's hundreds no guess is any use


def convert_state_dict(
    model: nn.Layer,
    state: Mapping[str, Any],
    *,
    layout: Literal["torch", "paddle"] = "torch",
    new_head: bool = False,
) -> tuple[dict[str, np.ndarray], ConversionReport]:
    """Turn a PyTorch state dict into one for ``model``; the model is not changed.

    Args:
        model: A classifier, a backbone, or one piece of them (a head, a token embedding) with
            the state dict of that piece.
        state: Names of the official code to arrays, flat; a leading ``module.`` is removed. Other
            namings that the family's key rules list are tried in turn where the official one
            leaves keys over; the report says which one it was.
        layout: "paddle" for a state dict of another Paddle project (PASSL, PaddleClas) or of this
            one, in which a Linear's weight is ``[in, out]`` already.
        new_head: Whether the head's last layers may be missing or for another number of classes;
            they then have no entry in the result and are named in ``report.left_new``.

    Returns:
        The state dict for ``model.set_state_dict`` (NumPy arrays in the model's types), and the
        report. Nothing raises on a misfit: see ``report.ok`` and ``report.raise_if_bad()``.
    """
    attempts = []
    for naming, rules in _namings(model, layout).items():
        attempt = _Conversion(model, rules, layout, new_head)
        attempt.report.naming = naming
        attempt.run(state)
        attempts.append(attempt)
        if attempt.report.ok:
            break
    best = min(attempts, key=lambda attempt: attempt.report.faults)
    best.guess()
    return best.out, best.report


def backbone_of(model: nn.Layer) -> Backbone | None:
    """The backbone of a classifier, or a backbone itself; None for other pieces."""
    found = model if isinstance(model, Backbone) else getattr(model, "backbone", None)
    return found if isinstance(found, Backbone) else None


def rules_of(model: nn.Layer) -> KeyRules | None:
    """The key rules of the model's backbone; None for a piece without one."""
    backbone = backbone_of(model)
    return None if backbone is None else key_rules(backbone)


def _namings(model: nn.Layer, layout: str) -> dict[str, Rules]:
    rules = rules_of(model)
    own: dict[str, Rules] = {"passl_sot": ()} if layout == "paddle" else {}
    if rules is None:
        return {**own, "official": ()}
    return {**own, "official": rules.official, **rules.foreign}


def rename(model: nn.Layer, name: str, rules: Rules) -> str:
    """The name in ``model`` that a name of a foreign state dict means under ``rules``."""
    name = re.sub(_WRAPPERS, "", name)
    for pattern, replacement in (*rules, *_STATISTICS):
        name = re.sub(pattern, replacement, name)
    # The rules give a classifier's names; a backbone by itself has no such prefix.
    return name.removeprefix("backbone.") if isinstance(model, Backbone) else name


@dataclass(frozen=True)
class Slot:
    """A place in the model: shape and type there, and whether a Linear's weight lies in it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_linear: bool

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape that PyTorch would have."""
        return self.shape[::-1] if self.is_linear else self.shape


def model_slots(model: nn.Layer) -> dict[str, Slot]:
    """All keys of the model's state dict, with the kind of layer that owns each."""
    linear_weights = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, layer in model.named_sublayers(include_self=True)
        if isinstance(layer, nn.Linear)
    }
    return {
        name: Slot(tuple(value.shape), _numpy_type(value), name in linear_weights)
        for name, value in model.state_dict().items()
    }


def computed_tables(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Buffers that the model computes by itself and never saves, such as sinusoid tables."""
    saved = model.state_dict().keys()
    return {name: value for name, value in model.named_buffers() if name not in saved}


def _numpy_type(value: paddle.Tensor) -> np.dtype:
    # NumPy has no bfloat16; Paddle casts float32 values when it sets them.
    return np.dtype("float32") if value.dtype == paddle.bfloat16 else value.numpy().dtype


class _Conversion:
    """One attempt: a state dict under one naming."""

    def __init__(self, model: nn.Layer, rules: Rules, layout: str, new_head: bool) -> None:
        self.model, self.rules, self.new_head = model, rules, new_head
        self.family = rules_of(model)
        self.turned = layout == "torch"  # whether a Linear's weight is turned
        self.slots, self.tables = model_slots(model), computed_tables(model)
        self.report = ConversionReport()
        self.out: dict[str, np.ndarray] = {}
        self.strays: list[tuple[str, str]] = []

    def run(self, state: Mapping[str, Any]) -> None:
        report = self.report
        for source, raw in state.items():
            reason = _COUNTERS.get(source.rpartition(".")[2])
            if reason:
                report.ignored.append((source, reason))
            else:
                self.take(source, rename(self.model, source, self.rules), np.asarray(raw))
        report.missing = [name for name in self.slots if name not in report.sources]
        if self.new_head:
            self.leave_the_last_layers_new()
        report.unexpected = [(source, []) for source, _ in self.strays]

    def take(self, source: str, target: str, raw: np.ndarray) -> None:
        report = self.report
        try:
            recoloured = self.recoloured(target, raw)
            value = self.adapted(target, recoloured)
        except ValueError as error:
            report.conflicts.append(f"{source}: {error}")
            value = recoloured = raw
        if target in self.tables:
            _check_table(source, value, self.tables[target], report)
        elif target not in self.slots and self.is_table(target):
            report.ignored.append((source, "a table computed from the rest; this model has no use for it"))
        elif target not in self.slots:
            self.strays.append((source, target))
        elif target in report.sources:
            report.conflicts.append(f"{source} and {report.sources[target]} both mean {target}")
        else:
            report.sources[target] = source
            self.place(source, target, value)
            if recoloured.shape != raw.shape and target in self.out:
                report.channels.append((source, raw.shape, recoloured.shape))
            if value.shape != recoloured.shape and target in self.out:
                report.adapted.append((source, recoloured.shape, value.shape))

    def rules_for(self, target: str) -> KeyRules | None:
        in_backbone = isinstance(self.model, Backbone) or target.startswith("backbone.")
        return self.family if in_backbone else None

    def is_table(self, target: str) -> bool:
        rules, name = self.rules_for(target), target.removeprefix("backbone.")
        return rules is not None and any(re.fullmatch(table, name) for table in rules.tables)

    def recoloured(self, target: str, value: np.ndarray) -> np.ndarray:
        rules, slot = self.rules_for(target), self.slots.get(target)
        if rules is None or slot is None:
            return value
        turn = slot.is_linear and not self.turned and value.ndim == 2
        got = rules.adapt_input(target.removeprefix("backbone."), value.T if turn else value)
        return got.T if turn else got

    def adapted(self, target: str, value: np.ndarray) -> np.ndarray:
        rules = self.rules_for(target)
        if rules is None:
            return value
        return np.asarray(rules.adapt(target.removeprefix("backbone."), value))

    def place(self, source: str, target: str, value: np.ndarray) -> None:
        slot, got = self.slots[target], value.shape
        if slot.is_linear and self.turned and value.ndim == 4 and got[2:] == (1, 1):
            value = value[:, :, 0, 0]  # a 1×1 convolution is a Linear
        wanted = slot.torch_shape if self.turned else slot.shape
        if value.shape != wanted:
            self.report.mismatched.append((source, target, got, wanted))
            return
        value = np.ascontiguousarray(value.T if slot.is_linear and self.turned else value)
        # ascontiguousarray gives a scalar one axis
        self.out[target] = value.astype(slot.dtype).reshape(slot.shape)
        self.report.loaded.append(target)
        if source != target:
            self.report.renamed.append((source, target))

    def leave_the_last_layers_new(self) -> None:
        """Takes what depends on the number of classes off the lists of faults."""
        classes = getattr(self.model, "num_classes", None)

        def is_last(target: str) -> bool:
            return target.startswith("head.") and self.slots[target].torch_shape[:1] == (classes,)

        report = self.report
        new = [target for target in report.missing if is_last(target)]
        new += [
            target
            for _, target, got, want in report.mismatched
            if is_last(target)
            and len(got) == len(want)
            and sum(a != b for a, b in zip(got, want, strict=True)) == 1
        ]
        report.left_new = [target for target in self.slots if target in new]
        report.missing = [target for target in report.missing if target not in new]
        for source, target, *_ in report.mismatched:
            if target in new:
                report.ignored.append((source, "of another number of classes"))
                del report.sources[target]
        report.mismatched = [entry for entry in report.mismatched if entry[1] not in new]

    def guess(self) -> None:
        """Names the nearest free places of keys without one."""
        free = self.report.missing
        self.report.unexpected = [
            (source, difflib.get_close_matches(target, free, n=2) if i < _MOST_GUESSES else [])
            for i, (source, target) in enumerate(self.strays)
        ]


def _check_table(source: str, value: np.ndarray, table: paddle.Tensor, report: ConversionReport) -> None:
    if value.shape != tuple(table.shape):
        reason = f"a fixed table for another size ({list(value.shape)}); the model computes its own"
        report.ignored.append((source, reason))
        return
    worst = float(np.abs(value.astype("float64") - table.numpy().astype("float64")).max(initial=0.0))
    if worst <= _TABLE_TOLERANCE:
        report.ignored.append((source, f"a fixed table, equal to the model's own (within {worst:.1e})"))
    else:
        report.conflicts.append(
            f"{source}: a fixed table that differs from the model's own by up to {worst:.1e}; it was "
            "learned, or belongs to another model"
        )
