"""What a model says of images that are no normalized tensor yet."""

from typing import Any

import paddle

_WHOLE_NUMBERS = (paddle.uint8, paddle.int8, paddle.int16, paddle.int32, paddle.int64, paddle.bool)


def check_floats(name: str, x: Any) -> None:
    """Raise a TypeError that says what to do unless ``x`` is a tensor of floating-point numbers."""
    kind = str(x.dtype).rpartition(".")[2] if hasattr(x, "dtype") else ""
    normalized = "(x.astype('float32') / 255 - mean) / std"
    cure = "with the recipe's mean and std, or give images to passl_sot.Predictor, which prepares them"
    # A traced graph has tensors of another class.
    if paddle.in_dynamic_mode() and not isinstance(x, paddle.Tensor):
        if "float" in kind:
            cure = "write model(paddle.to_tensor(x).astype('float32'))"
        else:
            cure = f"write model(paddle.to_tensor({normalized})) {cure}"
        given = " ".join(filter(None, (type(x).__module__.partition(".")[0], type(x).__name__, kind)))
        raise TypeError(f"{name} takes a paddle.Tensor of float32, got {given}: {cure}")
    if x.dtype in _WHOLE_NUMBERS:
        raise TypeError(f"{name} takes float32, got {kind} pixels: write model({normalized}) {cure}")
