"""Finds where non-finite numbers begin."""

import paddle


class NonFiniteError(RuntimeError):
    """The loss stayed non-finite; the message names where it begins."""


def _finite(value) -> bool:
    if isinstance(value, paddle.Tensor):
        return not paddle.is_floating_point(value) or bool(paddle.isfinite(value).all())
    if isinstance(value, list | tuple):
        return all(_finite(v) for v in value)
    return True


@paddle.no_grad()
def first_nonfinite(model: paddle.nn.Layer, batch: dict) -> str:
    """Names the first place, in the order of computation, that is not finite for `batch`.

    Args:
        model: The model without any distributed wrapper.
        batch: `image` [B, 3, H, W].

    Returns:
        A phrase: the input, a weight, a layer's output, or that the forward pass is finite.
    """
    if not _finite(batch["image"]):
        return "the input images"
    for name, tensor in model.state_dict().items():
        if not _finite(tensor):
            return f"the weight {name}"
    found: list[str] = []

    def watch(name: str):
        def hook(layer, inputs, output):
            if not found and not _finite(output):
                found.append(f"the output of {name} ({type(layer).__name__})")

        return hook

    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in model.named_sublayers()]
    try:
        model(batch["image"])
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the backward pass (all outputs of the forward pass are finite)"
