"""Settings that change between epochs: one number, or a schedule of epochs to numbers.

| `{"0": 0.4, "260": 0.6}` | 0.4, and 0.6 from epoch 260 on |
| `{"0": 0.0, "100": 0.2, between: linear}` | from 0 straight up to 0.2 in epoch 100, then 0.2 |

Epochs are counted from 0. A YAML file's keys are text; from Python numbers will do as well.
"""

from collections.abc import Mapping
from typing import Literal

from passl_sot.config.signature import NonNegative, Share, UnitInterval

# For constructors: such a setting's type hint, by the values it takes.
ShareByEpoch = Share | dict[str, Share | Literal["linear"]]
UnitIntervalByEpoch = UnitInterval | dict[str, UnitInterval | Literal["linear"]]
NonNegativeByEpoch = NonNegative | dict[str, NonNegative | Literal["linear"]]


def value_of_epoch(what: str, value: float | Mapping[str, float | str], epoch: int) -> float:
    """The value in an epoch, counted from 0, of the setting that messages call `what`.

    Raises:
        ValueError: The schedule is malformed, or does not start at epoch 0.
    """
    if not isinstance(value, Mapping):
        return value
    steps: dict[int, float] = {}
    for key, number in value.items():
        if key == "between":
            if number != "linear":
                raise ValueError(f"{what}: between is linear or left out, got {number!r}")
        elif not str(key).isdecimal():
            raise ValueError(f"{what}: the keys of a schedule are epochs, got {dict(value)}")
        elif isinstance(number, str):
            raise ValueError(f"{what}: epoch {key} needs a number, got {number!r}")
        else:
            steps[int(key)] = number
    if min(steps, default=-1) != 0:
        raise ValueError(f"{what}: a schedule starts at epoch 0, got {list(value)}")
    # Before the first epoch its value holds.
    epoch = max(epoch, 0)
    first = max(step for step in steps if step <= epoch)
    later = [step for step in steps if step > epoch]
    if "between" not in value or not later:
        return steps[first]
    fraction = (epoch - first) / (min(later) - first)
    return (1 - fraction) * steps[first] + fraction * steps[min(later)]
