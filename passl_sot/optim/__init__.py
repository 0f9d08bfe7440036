"""Optimizers, learning-rate schedules, parameter groups, gradient clipping and weight averaging."""

from passl_sot.config import Registry
from passl_sot.utils.require import require_paddle

require_paddle()

OPTIMIZERS = Registry("optimizer", "passl_sot.optim")
SCHEDULERS = Registry("lr_scheduler", "passl_sot.optim")


def build_optimizer(cfg):
    """Builds the optimizer factory that an `optimizer:` section describes; call it with a model."""
    return OPTIMIZERS.build(cfg)
