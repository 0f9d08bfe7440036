"""Optimizers by name. Each is configured from YAML and then called with the model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import paddle

from passl_sot.config import Positive, Range, Share
from passl_sot.optim import OPTIMIZERS
from passl_sot.optim.groups import ParameterGroup, group_parameters

_Decay = Annotated[float, Range(min=0, max=1000)]


@dataclass(kw_only=True)
class OptimizerFactory:
    """Settings of every optimizer. The result of a call starts at rate 0; `groups.set_rates` sets it.

    Attributes:
        weight_decay: On the groups that are decayed.
        clip_grad: Largest global L2 norm of the gradient; null doesn't clip.
        moments: Numbers that it keeps for each weight.
    """

    weight_decay: _Decay = 0.05
    # Below the 1e-6 that is added to the norm it is divided by, it means nothing.
    clip_grad: Annotated[float, Range(min=1e-6)] | None = None
    moments: ClassVar[int] = 0

    def __call__(
        self, model: paddle.nn.Layer, groups: Sequence[ParameterGroup] | None = None
    ) -> paddle.optimizer.Optimizer:
        """Paddle's optimizer over the trainable parameters.

        Args:
            model: The model.
            groups: Its parameters in groups; by default those that `group_parameters` makes.
        """
        groups = group_parameters(model) if groups is None else groups
        # Paddle's own names ("linear_0.w_0"), which are all that its optimizers know.
        decayed = {p.name for group in groups if group.decayed for p in group.parameters.values()}
        parameters = [p for p in model.parameters() if not p.stop_gradient]
        # The rate is set before each step, by `groups.set_rates`.
        return self._build(decayed, learning_rate=0.0, parameters=parameters)

    def _build(self, decayed: set[str], **settings: Any) -> paddle.optimizer.Optimizer:
        raise NotImplementedError


@dataclass(kw_only=True)
class _Adaptive(OptimizerFactory):
    """Adam and what is made of it: decays of the moments, and what is added to the root of the second."""

    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Positive = 1e-8
    moments: ClassVar[int] = 2


@OPTIMIZERS.register()
@dataclass(kw_only=True)
class AdamW(_Adaptive):
    """Adam with weight decay per unit of learning rate (Loshchilov & Hutter, 2019), as in torch.

    `beta1` and `beta2` are the decays of the moments; `epsilon` is added to the root of the second.
    """

    def _build(self, decayed: set[str], **settings: Any) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.AdamW(
            weight_decay=self.weight_decay,
            # It is given Paddle's own name of a parameter, not the model's.
            apply_decay_param_fun=decayed.__contains__,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            **settings,
        )


@OPTIMIZERS.register()
@dataclass(kw_only=True)
class Lamb(_Adaptive):
    """LAMB (You et al., arXiv 1904.00962), for large batches; DeiT III trains with it.

    Each tensor's step, Adam's with the decay added, is scaled by the norm of its weights over that of the
    step; where weights are not decayed the step is Adam's. timm's and apex's LAMB also clip gradients at a
    global norm of 1, which is `clip_grad: 1.0` here. `beta1`, `beta2` and `epsilon` are as of `AdamW`.
    """

    epsilon: Positive = 1e-6

    def _build(self, decayed: set[str], **settings: Any) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Lamb(
            lamb_weight_decay=self.weight_decay,
            exclude_from_weight_decay_fn=lambda p: p.name not in decayed,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            **settings,
        )


class _Decaying:
    """Adds decay to gradients."""

    # A regularizer of each parameter, Paddle's way, is refused by its sharding.

    def __init__(self, decayed: Collection[str], weight_decay: float, **settings: Any):
        super().__init__(**settings)
        self.decayed = decayed
        self.weight_decay = weight_decay

    def _create_regularization_of_grad(self, param, grad, regularization=None):
        # Paddle's optimizers call this for every parameter before a step.
        if self.weight_decay and param.name in self.decayed:
            return grad + self.weight_decay * param
        return grad


class _DecayingSGD(_Decaying, paddle.optimizer.SGD):
    pass


class _DecayingMomentum(_Decaying, paddle.optimizer.Momentum):
    pass


@OPTIMIZERS.register()
@dataclass(kw_only=True)
class SGD(OptimizerFactory):
    """Stochastic gradient descent without memory; `weight_decay` of the weights is added to gradients."""

    weight_decay: _Decay = 0.0

    def _build(self, decayed: set[str], **settings: Any) -> paddle.optimizer.Optimizer:
        return _DecayingSGD(decayed, self.weight_decay, **settings)


@OPTIMIZERS.register()
@dataclass(kw_only=True)
class Momentum(OptimizerFactory):
    """SGD with momentum, as torch's SGD: `velocity = momentum * velocity + gradient`, then a step along it.

    Attributes:
        weight_decay: Fraction of the weights that is added to their gradients.
        momentum: Fraction of the velocity that each step keeps.
        nesterov: Step along the gradient at the place where the velocity leads.
    """

    weight_decay: _Decay = 0.0
    momentum: Annotated[float, Range(above=0, below=1)] = 0.9
    nesterov: bool = False
    moments: ClassVar[int] = 1

    def _build(self, decayed: set[str], **settings: Any) -> paddle.optimizer.Optimizer:
        settings |= {"momentum": self.momentum, "use_nesterov": self.nesterov}
        return _DecayingMomentum(decayed, self.weight_decay, **settings)
