"""The way back: weights of this project under the official PyTorch names and shapes."""

import re
from collections.abc import Mapping

import numpy as np
from paddle import nn

from passl_sot.interop.convert import computed_tables, convert_state_dict, is_table, model_slots, rules_of
from passl_sot.interop.report import ConversionError
from passl_sot.weights.rules import KeyRules

_STATISTICS = ((r"(^|\.)_mean$", r"\1running_mean"), (r"(^|\.)_variance$", r"\1running_var"))


def export_state_dict(model: nn.Layer, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn a state dict of ``model`` into one that the official PyTorch code loads strictly.

    Fixed tables that the official code keeps in its state dict are written too, and BatchNorm's step
    counters as zeros. The result is converted back and compared, bit for bit, before it is given.

    Args:
        model: The classifier or backbone; only its structure and its tables are used.
        arrays: Every entry of its state dict.

    Returns:
        Official names to arrays laid out as in PyTorch.

    Raises:
        ConversionError: An entry has no official name, or does not survive the way back.
    """
    slots = model_slots(model)
    if slots.keys() != arrays.keys():
        lacking = sorted(slots.keys() ^ arrays.keys())
        raise ConversionError(f"not a whole state dict of the model: {', '.join(lacking[:8])}")
    rules = rules_of(model)
    # The rules are for a classifier's names, which a backbone by itself lacks.
    prefix = "backbone." if rules.backbone is model else ""
    out: dict[str, np.ndarray] = {}
    for name, slot in slots.items():
        official = _official(rules, prefix + name)
        array = arrays[name]
        if slot.is_linear:
            array = np.ascontiguousarray(array.T)
        if slot.is_linear and any(re.fullmatch(pattern, official) for pattern in rules.pointwise):
            array = array[:, :, None, None]
        kind, _, inside = f"{prefix}{name}".partition(".")
        out[official] = rules.restore(inside, array) if kind == "backbone" else array
        # PyTorch's strict loading wants the step counters that Paddle doesn't keep.
        if official.endswith("running_mean"):
            counter = official.removesuffix("running_mean") + "num_batches_tracked"
            out[counter] = np.zeros((), "int64")
    for name, value in computed_tables(model).items():
        kind, _, inside = f"{prefix}{name}".partition(".")
        if kind == "backbone" and is_table(rules, inside):
            out[_official(rules, prefix + name)] = value.numpy()
    # Rules that send two names to one place would lose a layer silently.
    back, report = convert_state_dict(model, out)
    if not report.ok or report.naming != "official":
        family = type(rules.backbone).__name__
        raise ConversionError(f"{family} has no way back to official names: {report}")
    wrong = [name for name, value in arrays.items() if not np.array_equal(back[name], value, equal_nan=True)]
    if wrong:
        raise ConversionError(f"changed on the way to official names and back: {', '.join(wrong[:8])}")
    return out


def _official(rules: KeyRules, name: str) -> str:
    for pattern, replacement in (*rules.to_official, *_STATISTICS):
        name = re.sub(pattern, replacement, name)
    return name
