"""Finds where non-finite numbers begin."""

import paddle

from passl_sot.config.errors import UserError
from passl_sot.engine.distributed import World

_BACKWARD = "the backward pass (all outputs of the forward pass are finite)"


class NonFiniteError(UserError, RuntimeError):
    """The loss stayed non-finite; the message names where it begins."""

    status = 1


def _finite(value) -> bool:
    if isinstance(value, paddle.Tensor):
        return not paddle.is_floating_point(value) or bool(paddle.isfinite(value).all())
    if isinstance(value, list | tuple):
        return all(_finite(v) for v in value)
    return True


def first_of_all(model: paddle.nn.Layer, batch: dict, world: World) -> str:
    """What `first_nonfinite` gives where the numbers begin to be bad, on every process.

    Args:
        model: The model without any distributed wrapper.
        batch: This process's.
        world: The processes; gradients are shared, so all have bad numbers, but the forward pass of one only.
    """
    found = world.gather(first_nonfinite(model, batch))
    for rank, phrase in enumerate(found):
        if phrase != _BACKWARD and world.size > 1:
            return f"{phrase} in process {rank}"
    return found[0]


@paddle.no_grad()
def first_nonfinite(model: paddle.nn.Layer, batch: dict) -> str:
    """Names the first place, in the order of computation, that is not finite for `batch`.

    Args:
        model: The model without any distributed wrapper.
        batch: `image` [B, 3, H, W].

    Returns:
        A phrase: the input, a weight, a layer's output, or that the forward pass is finite.
    """
    found = [] if _finite(batch["image"]) else ["the input images"]
    found += [f"the weight {name}" for name, tensor in model.state_dict().items() if not _finite(tensor)]

    def watch(name: str):
        def hook(layer, inputs, output):
            if not found and not _finite(output):
                found.append(f"the output of {name} ({type(layer).__name__})")

        return hook

    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in model.named_sublayers()]
    try:
        # Even if something was found: synchronised BatchNorm waits for all processes.
        model(batch["image"])
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else _BACKWARD
