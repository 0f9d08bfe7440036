"""Optimisers by name. Each is configured from YAML and then called with the model."""

import paddle

from passl_sot.optim import OPTIMIZERS
from passl_sot.optim.groups import decay_groups
from passl_sot.utils.ranges import NonNegative, Positive, Share


@OPTIMIZERS.register()
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), as torch and timm have it.

    Args:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
        weight_decay: Decay per unit of learning rate, on the parameters that `decay_groups` selects.
        clip_grad: Largest global L2 norm of the gradient; null doesn't clip.
    """

    def __init__(
        self,
        *,
        beta1: Share = 0.9,
        beta2: Share = 0.999,
        epsilon: Positive = 1e-8,
        weight_decay: NonNegative = 0.05,
        clip_grad: Positive | None = None,
    ):
        if clip_grad is not None and clip_grad <= 0:
            raise ValueError(
                f"optimizer.clip_grad is {clip_grad}; it must be above 0, or null for no clipping"
            )
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.weight_decay = weight_decay
        self.clip_grad = clip_grad

    def __call__(self, model: paddle.nn.Layer) -> paddle.optimizer.AdamW:
        """Builds Paddle's optimiser over the trainable parameters of `model`."""
        with_decay = set(decay_groups(model)[0])
        # Paddle hands its own parameter name ("linear_0.w_0") to the function, not the structured one.
        decayed = {p.name for name, p in model.named_parameters() if name in with_decay}
        return paddle.optimizer.AdamW(
            learning_rate=0.0,  # the trainer sets the rate before every update
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            parameters=[p for p in model.parameters() if not p.stop_gradient],
        )
