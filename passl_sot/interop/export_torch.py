"""The way back: weights of this project under the official PyTorch names and shapes."""

import re
from collections.abc import Mapping

import numpy as np
from paddle import nn

from passl_sot.interop.convert import (
    ConversionError,
    Slot,
    backbone_of,
    computed_tables,
    convert_state_dict,
    model_slots,
    rules_of,
)

__all__ = ["export_state_dict"]

_STATISTICS = ((r"(^|\.)_mean$", r"\1running_mean"), (r"(^|\.)_variance$", r"\1running_var"))


def export_state_dict(model: nn.Layer, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn a state dict of ``model`` into one that the official PyTorch code loads strictly.

    Fixed tables that the official code keeps in its state dict are written too, and BatchNorm's step
    counters as zeros. The result is converted back and compared, bit for bit, before it is given.

    Args:
        model: The classifier or backbone that the arrays belong to; only its structure and its
            tables are used.
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
    names = {name: _official(model, name) for name in slots}
    out = {
        official: _laid_out(model, name, official, arrays[name], slots[name])
        for name, official in names.items()
    }
    out |= _tables(model)
    means = [official for official in names.values() if official.endswith("running_mean")]
    counters = [f"{name.removesuffix('running_mean')}num_batches_tracked" for name in means]
    out |= {name: np.zeros((), "int64") for name in counters}
    _check_the_way_back(model, arrays, out)
    return out


def _official(model: nn.Layer, name: str) -> str:
    rules = rules_of(model)
    full = f"backbone.{name}" if backbone_of(model) is model else name
    for pattern, replacement in (*(rules.to_official if rules else ()), *_STATISTICS):
        full = re.sub(pattern, replacement, full)
    return full


def _laid_out(model: nn.Layer, name: str, official: str, array: np.ndarray, slot: Slot) -> np.ndarray:
    value = np.ascontiguousarray(array.T).reshape(slot.torch_shape) if slot.is_linear else array
    rules = rules_of(model)
    if rules is None:
        return value
    if slot.is_linear and any(re.fullmatch(pattern, official) for pattern in rules.pointwise):
        value = value[:, :, None, None]
    if rules.backbone is model or name.startswith("backbone."):
        value = rules.restore(name.removeprefix("backbone."), value)
    return value


def _tables(model: nn.Layer) -> dict[str, np.ndarray]:
    rules = rules_of(model)
    if rules is None:
        return {}
    prefix = "" if rules.backbone is model else "backbone."
    return {
        _official(model, name): value.numpy()
        for name, value in computed_tables(model).items()
        if name.startswith(prefix)
        and any(re.fullmatch(pattern, name.removeprefix(prefix)) for pattern in rules.tables)
    }


def _check_the_way_back(
    model: nn.Layer, arrays: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]
) -> None:
    back, report = convert_state_dict(model, out)
    if not report.ok or report.naming != "official":
        family = type(backbone_of(model)).__name__
        raise ConversionError(f"{family} has no way back to official names: {report}")
    wrong = [name for name, value in arrays.items() if not np.array_equal(back[name], value, equal_nan=True)]
    if wrong:
        raise ConversionError(f"changed on the way to official names and back: {', '.join(wrong[:8])}")
