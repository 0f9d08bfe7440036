"""Settings that change between epochs: one number, or a schedule of first epochs to numbers."""

from __future__ import annotations

from collections.abc import Mapping


def value_of_epoch(what: str, value: float | Mapping[str, float], epoch: int) -> float:
    """A setting's value in an epoch.

    Args:
        what: Name of the setting, for the messages.
        value: One number for all epochs, or a schedule: first epochs (counted from 0) to numbers, such as
            `{"0": 0.4, "260": 0.6}`. A YAML file's keys are text; numbers will do as well.
        epoch: Epoch, counted from 0.

    Raises:
        ValueError: A key is no whole number, or the schedule does not start at epoch 0.
    """
    if not isinstance(value, Mapping):
        return value
    try:
        steps = {int(first): number for first, number in value.items()}
    except ValueError:
        raise ValueError(f"{what}: the keys of a schedule are epochs, got {list(value)}") from None
    if min(steps, default=-1) != 0:
        raise ValueError(f"{what}: a schedule starts at epoch 0, got {list(value)}")
    return steps[max(first for first in steps if first <= max(epoch, 0))]
