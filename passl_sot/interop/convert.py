"""PyTorch state dicts for Paddle models, with an account of every key, and the way back.

This file holds the general part: Paddle keeps a Linear's weight as ``[in, out]`` where PyTorch has
``[out, in]``, and names BatchNorm's statistics ``_mean`` and ``_variance``. The names that a family
changes are in ``weights.rules``.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import paddle
from paddle import nn

from passl_sot.interop.joining import join, split, whole_of
from passl_sot.interop.report import ConversionError, ConversionReport
from passl_sot.modeling.backbones.base import Backbone
from passl_sot.weights.rules import KeyRules, Rules, key_rules

_WRAPPERS = (r"^((module|_orig_mod)\.)+", "")  # DataParallel's and torch.compile's
_STATISTICS = ((r"(^|\.)running_mean$", r"\1_mean"), (r"(^|\.)running_var$", r"\1_variance"))
_OFFICIAL_STATISTICS = ((r"(^|\.)_mean$", r"\1running_mean"), (r"(^|\.)_variance$", r"\1running_var"))
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
        state: Names of the official code to arrays, flat; a leading ``module.`` is removed. Where
            the official naming leaves keys over, the family's other namings are tried in turn; the
            report has the one taken.
        layout: "paddle" for a state dict of another Paddle project (PASSL, PaddleClas) or of this
            one, in which a Linear's weight is ``[in, out]`` already.
        new_head: Whether the head's last layers may be missing or for another number of classes,
            or all of it missing; what is left new has no entry in the result and is named in
            ``report.left_new``.

    Returns:
        The state dict for ``model.set_state_dict`` (NumPy arrays in the model's types), and the
        report. Nothing raises on a misfit: see ``report.ok`` and ``report.raise_if_bad()``.
    """
    conversion = _Conversion(model, layout)
    namings = {"official": conversion.family.official, **conversion.family.foreign}
    # Tried first: a file that this project wrote needs no renaming.
    if layout == "paddle":
        namings = {"passl_sot": (), **namings}
    attempts = []
    for naming in namings:
        attempts.append(conversion.attempt(state, naming, namings[naming], new_head))
        if attempts[-1][1].ok:
            break
    out, report = min(attempts, key=lambda attempt: attempt[1].faults)
    for source, near in report.unexpected[:_MOST_GUESSES]:
        target = conversion.target(source, namings[report.naming])
        near += difflib.get_close_matches(target, report.missing, n=2)
    return out, report


def export_state_dict(
    model: nn.Layer, arrays: Mapping[str, np.ndarray], *, layout: Literal["torch", "paddle"] = "torch"
) -> dict[str, np.ndarray]:
    """Turn a state dict of ``model`` into one by the authors' names, which their code loads strictly.

    Fixed tables that the official code keeps in its state dict are written too, and BatchNorm's step
    counters as zeros. The result is converted back and compared, bit for bit, before it is given.

    Args:
        model: The classifier or backbone; only its structure and its tables are used.
        arrays: Every entry of its state dict.
        layout: "paddle" for another Paddle project that has the authors' names (PaddleClas): layouts and
            the names of BatchNorm's statistics stay Paddle's, and there are no counters.

    Returns:
        Official names to arrays laid out as in PyTorch, or Paddle.

    Raises:
        ConversionError: An entry has no official name, or does not survive the way back.
    """
    rules = _rules_of(model)
    slots = _model_slots(model, rules)
    if slots.keys() != arrays.keys():
        lacking = sorted(slots.keys() ^ arrays.keys())
        raise ConversionError(f"not a whole state dict of the model: {', '.join(lacking[:8])}")
    # The rules are for a classifier's names, which a backbone by itself lacks.
    prefix = "backbone." if rules.backbone is model else ""
    way_back = rules.to_official
    if layout == "torch":
        way_back = (*way_back, *_OFFICIAL_STATISTICS)
    out: dict[str, np.ndarray] = {}
    for name, slot in slots.items():
        array = arrays[name]
        if slot.is_linear and layout == "torch":
            array = np.ascontiguousarray(array.T)
        for part, value in split(prefix + name, array, rules.joined, layout):
            official = _rename(part, way_back)
            if layout == "torch" and _matches(rules.pointwise, official):
                value = value[:, :, None, None]
            kind, _, inside = part.partition(".")
            out[official] = rules.restore(inside, value) if kind == "backbone" else value
            # PyTorch's strict loading wants the step counters that Paddle doesn't keep.
            if official.endswith("running_mean"):
                counter = official.removesuffix("running_mean") + "num_batches_tracked"
                out[counter] = np.zeros((), "int64")
    for name, table in _computed_tables(model).items():
        kind, _, inside = f"{prefix}{name}".partition(".")
        if kind == "backbone" and _matches(rules.tables, inside):
            out[_rename(prefix + name, way_back)] = table.numpy()
    # Rules that send two names to one place would lose a layer silently.
    back, report = convert_state_dict(model, out, layout=layout)
    if not report.ok or report.naming != "official":
        family = type(rules.backbone).__name__
        raise ConversionError(f"{family} has no way back to official names: {report}")
    wrong = [name for name, value in arrays.items() if not np.array_equal(back[name], value, equal_nan=True)]
    if wrong:
        raise ConversionError(f"changed on the way to official names and back: {', '.join(wrong[:8])}")
    return out


class _NoRules(KeyRules):
    """For a head, or a piece of a backbone."""

    official = ()
    to_official = ()
    tables = ()


def _rules_of(model: nn.Layer) -> KeyRules:
    """The key rules for a backbone, or for a classifier's; for other pieces those that change nothing."""
    for part in (model, getattr(model, "backbone", None)):
        if isinstance(part, Backbone):
            return key_rules(part)
    return _NoRules(backbone=None)


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


class _Slot(NamedTuple):
    """A place in the model."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_linear: bool  # whether it is a Linear's weight, which PyTorch lays out as [out, in]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.is_linear else self.shape


def _model_slots(model: nn.Layer, rules: KeyRules) -> dict[str, _Slot]:
    """All keys of the model's state dict, with the kind of layer that owns each."""
    # The kind of LAYER tells whether a weight is transposed, never its number of dimensions or its shape:
    # square Linear weights must be transposed, embedding tables must not.
    linear_weights = {
        f"{prefix}.weight".removeprefix(".")
        for prefix, layer in model.named_sublayers(include_self=True)
        if isinstance(layer, nn.Linear)
    }
    slots = {}
    for name, value in model.state_dict().items():
        # NumPy has no bfloat16; Paddle casts float32 values when it sets them.
        dtype = np.dtype("float32") if value.dtype == paddle.bfloat16 else value.numpy().dtype
        inside = name.removeprefix("backbone.")
        turned = name in linear_weights and not _matches(rules.paddle_layout, inside)
        slots[name] = _Slot(tuple(value.shape), dtype, turned)
    return slots


def _computed_tables(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Buffers that the model computes by itself and never saves, such as sinusoid tables."""
    saved = model.state_dict().keys()
    return {name: value for name, value in model.named_buffers() if name not in saved}


class _Conversion:
    def __init__(self, model: nn.Layer, layout: str) -> None:
        self.model = model
        self.family = _rules_of(model)
        self.layout = layout
        self.slots = _model_slots(model, self.family)
        self.tables = _computed_tables(model)

    def attempt(
        self, state: Mapping[str, Any], naming: str, rules: Rules, new_head: bool
    ) -> tuple[dict[str, np.ndarray], ConversionReport]:
        """The state dict and the report under one naming."""
        self.out: dict[str, np.ndarray] = {}
        self.aside: list[tuple[str, str]] = []  # names in the file and in the model
        report = self.report = ConversionReport(naming)
        for source, target, raw in self.entries(state, rules):
            self.take(source, target, raw)
        report.missing = [name for name in self.slots if name not in report.sources]
        if new_head:
            self.leave_the_last_layers_new()
        self.settle_pretraining()
        return self.out, report

    def entries(self, state: Mapping[str, Any], rules: Rules) -> Iterator[tuple[str, str, np.ndarray]]:
        """Name in the file, name in the model and value of each entry; those that are one here joined."""
        joined = self.family.joined
        parts: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
        for source, raw in state.items():
            target = self.target(source, rules)
            whole, part = whole_of(target, joined)
            reason = _COUNTERS.get(source.rpartition(".")[2])
            if reason:
                self.report.ignored.append((source, reason))
            elif not part or whole not in self.slots:
                yield source, target, np.asarray(raw)
            elif part in parts.setdefault(whole, {}):
                other = parts[whole][part][0]
                self.report.conflicts.append(f"{source} and {other} both mean the {part} of {whole}")
            else:
                parts[whole][part] = source, np.asarray(raw)
        for whole, found in parts.items():
            try:
                source, value = join(whole, found, joined, self.layout)
            except ValueError as error:
                self.report.conflicts.append(str(error))
                self.report.sources[whole] = ""
            else:
                yield source, whole, value

    def target(self, source: str, rules: Rules) -> str:
        target = _rename(source, (_WRAPPERS, *rules, *_STATISTICS))
        # The rules give a classifier's names; a backbone by itself has no such prefix.
        return target.removeprefix("backbone.") if isinstance(self.model, Backbone) else target

    def take(self, source: str, target: str, raw: np.ndarray) -> None:
        report = self.report
        # Heads have no rules of their own.
        in_backbone = isinstance(self.model, Backbone) or target.startswith("backbone.")
        name = target.removeprefix("backbone.")
        steps = [raw, raw, raw]
        if in_backbone:
            try:
                steps = self.adapted(name, self.slots.get(target), raw)
            except ValueError as error:
                report.conflicts.append(f"{source}: {error}")
        value = steps[-1]
        if target in self.tables:
            _check_table(source, value, self.tables[target], report, self.family.to_learn_tables)
        elif target not in self.slots and in_backbone and _matches(self.family.tables, name):
            report.ignored.append((source, "a table computed from the rest; this model has no use for it"))
        elif target not in self.slots and self.why_aside(name):
            self.aside.append((source, target))
        elif target not in self.slots:
            report.unexpected.append((source, []))
        elif target in report.sources:
            report.conflicts.append(f"{source} and {report.sources[target]} both mean {target}")
        else:
            report.sources[target] = source
            self.place(source, target, value)
            before = raw
            for changes, after in zip((report.channels, report.adapted, report.extended), steps, strict=True):
                if after.shape != before.shape and target in self.out:
                    changes.append((source, before.shape, after.shape))
                before = after

    def adapted(self, name: str, slot: _Slot | None, raw: np.ndarray) -> list[np.ndarray]:
        """The value over the model's image channels, that at the model's sizes, and that with new rows."""
        value = raw
        if slot is not None and slot.is_linear and self.layout == "paddle" and raw.ndim == 2:
            value = self.family.adapt_input(name, raw.T).T  # which wants PyTorch's layout
        elif slot is not None:
            value = self.family.adapt_input(name, raw)
        resized = np.asarray(self.family.adapt(name, value))
        return [value, resized, self.family.extend(name, resized)]

    def place(self, source: str, target: str, value: np.ndarray) -> None:
        slot = self.slots[target]
        shape = value.shape
        transpose = slot.is_linear and self.layout == "torch"
        if transpose and set(shape[2:]) == {1}:
            value = value.reshape(shape[:2])  # a 1×1 convolution is a Linear
        wanted = slot.torch_shape if transpose else slot.shape
        if value.shape != wanted:
            self.report.mismatched.append((source, target, shape, wanted))
            return
        if transpose:
            value = value.T
        self.out[target] = np.array(value, slot.dtype, order="C")
        self.report.loaded.append(target)
        if source != target:
            self.report.renamed.append((source, target))

    def last_layers(self) -> set[str]:
        """Names in the model of entries that depend on the number of classes."""
        # Other layers of the head (of second order, say) don't depend on the number of classes.
        classes = getattr(self.model, "num_classes", None)
        return {
            target
            for target, slot in self.slots.items()
            if target.startswith("head.") and slot.torch_shape[:1] == (classes,)
        }

    def why_aside(self, name: str) -> str:
        """Why an entry, by its name in the backbone or `head.*`, may be left aside; "" where it may not."""
        if self.report.naming == "passl_sot":
            return ""
        return next((why for pattern, why in self.family.left_aside if re.fullmatch(pattern, name)), "")

    def settle_pretraining(self) -> None:
        """Accounts for what a file from before the fine-tuning has more than the model, and what it lacks."""
        report = self.report
        # With a last layer that was trained, all of its head is needed.
        has_head = not self.last_layers().isdisjoint(report.sources)
        for source, target in self.aside:
            if has_head and target.startswith("head."):
                report.unexpected.append((source, []))
            else:
                report.ignored.append((source, self.why_aside(target.removeprefix("backbone."))))
        if report.naming == "passl_sot":
            return
        for target in report.missing:
            if self.family.trained_without_head and not has_head and target.startswith("head."):
                report.left_new.append(target)
            elif _matches(self.family.zeros, target.removeprefix("backbone.")):
                self.out[target] = np.zeros(self.slots[target].shape, self.slots[target].dtype)
                report.zeros.append(target)
        report.missing = [name for name in report.missing if name not in {*report.zeros, *report.left_new}]

    def leave_the_last_layers_new(self) -> None:
        """Takes entries that depend on the number of classes off the lists of faults; of a body the head."""
        report = self.report
        last = self.last_layers()
        new = last.intersection(report.missing)
        if not any(target.startswith("head.") for target in report.sources):
            new |= {target for target in report.missing if target.startswith("head.")}
        for source, target, got, want in report.mismatched:
            # The last layers differ in one axis, their number of classes; more is another architecture.
            differing = sum(a != b for a, b in zip(got, want, strict=False))
            if target in last and len(got) == len(want) and differing == 1:
                new.add(target)
                report.ignored.append((source, "of another number of classes"))
                del report.sources[target]
        report.left_new = [target for target in self.slots if target in new]
        report.missing = [target for target in report.missing if target not in new]
        report.mismatched = [entry for entry in report.mismatched if entry[1] not in new]


def _rounding(value: np.ndarray) -> float:
    """The relative error of values that were kept in 16 or 8 bits, told by the bits left empty; else 0."""
    used = int(np.bitwise_or.reduce(value.astype("f4").view("u4"), axis=None)) & 0x7FFFFF
    fraction = 23 - (used & -used).bit_length() + 1
    return 2.0**-fraction if used and fraction <= 10 else 0.0


def _check_table(
    source: str, value: np.ndarray, table: paddle.Tensor, report: ConversionReport, to_learn: str
) -> None:
    if value.shape != tuple(table.shape):
        reason = f"a fixed table for another size ({list(value.shape)}); the model computes its own"
        report.ignored.append((source, reason))
        return
    own = table.numpy().astype("float64")
    difference = np.abs(value.astype("float64") - own)
    worst = float(difference.max(initial=0.0))
    if np.all(difference <= _TABLE_TOLERANCE + _rounding(value) * np.abs(own)):
        report.ignored.append((source, f"a fixed table, equal to the model's own (within {worst:.1e})"))
    else:
        learned = f"learned (which -o {to_learn} takes)" if to_learn else "learned"
        report.conflicts.append(
            f"{source}: a fixed table that differs from the model's own by up to {worst:.1e}; it was "
            f"{learned}, or belongs to another model"
        )
