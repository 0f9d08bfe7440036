"""The learning-rate schedules that PaddleClas and this project both have."""

from typing import Any

# PaddleClas's name: ours, and its keys: theirs, ours, and theirs by default. Linear has a power besides, with
# which it is our PolySchedule. Of two names for one schedule the last is written.
SCHEDULES: dict[str, tuple[str, tuple[tuple[str, str, Any], ...]]] = {
    "Cosine": ("CosineSchedule", (("eta_min", "min_lr", 0.0),)),
    "Linear": ("LinearSchedule", (("end_lr", "min_lr", 0.0),)),
    "Step": ("StepSchedule", (("step_size", "step_size", None), ("gamma", "gamma", 0.1))),
    "MultiStepDecay": ("MultiStepSchedule", (("milestones", "milestones", None), ("gamma", "gamma", 0.1))),
    "Constant": ("ConstantSchedule", ()),
    "ConstLR": ("ConstantSchedule", ()),
}
