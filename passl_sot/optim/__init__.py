"""Optimisers, learning-rate schedules, parameter groups, gradient clipping and weight averaging.

Configured objects and their run-time inputs are kept apart: `AdamW(weight_decay=0.05)` is what a YAML
file says; calling the result with a model gives Paddle's optimiser.
"""

from passl_sot.config import Registry
from passl_sot.utils.require import require_paddle

require_paddle()

OPTIMIZERS = Registry("optimizer", "passl_sot.optim")
SCHEDULERS = Registry("lr_scheduler", "passl_sot.optim")


def build_optimizer(cfg):
    """Builds the optimiser factory that an `optimizer:` section describes."""
    return OPTIMIZERS.build(cfg)


def build_lr_scheduler(cfg):
    """Builds the schedule that an `lr_scheduler:` section describes."""
    return SCHEDULERS.build(cfg)
