"""Finds where non-finite numbers begin."""

import paddle

from passl_sot.config import UserError
from passl_sot.engine.distributed import World


class NonFiniteError(UserError, RuntimeError):
    """The loss stayed non-finite; the message names where it begins."""

    status = 1


@paddle.no_grad()
def first_nonfinite(model: paddle.nn.Layer, inputs: tuple, items: str, world: World) -> str:
    """Names the first place, in the order of computation, that is not finite; the same on all processes.

    The unwrapped model is called with `inputs`, for which `items` is a word, such as "images".
    """
    found = []
    if not _finite(inputs):
        found.append(f"the input {items}")
    found += [f"the weight {name}" for name, tensor in model.state_dict().items() if not _finite(tensor)]

    def watch(name: str):
        def hook(layer, inputs, output):
            # Only the first: everything behind it is bad because of it.
            if not found and not _finite(output):
                found.append(f"the output of {name} ({type(layer).__name__})")

        return hook

    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in model.named_sublayers()]
    try:
        # Even if something was found: synchronized BatchNorm waits for all processes.
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    # Gradients are shared, so all have bad numbers, but the forward pass of one only.
    for rank, phrases in enumerate(world.gather_objects(found)):
        if phrases:
            return phrases[0] + f" in process {rank}" * (world.size > 1)
    return "the backward pass (all outputs of the forward pass are finite)"


def _finite(value) -> bool:
    if isinstance(value, paddle.Tensor):
        return not paddle.is_floating_point(value) or bool(paddle.isfinite(value).all())
    if isinstance(value, list | tuple):
        return all(_finite(v) for v in value)
    return True
