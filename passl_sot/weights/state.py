"""Between live objects (model, optimizer, average) and the named arrays of a checkpoint."""

import numpy as np
import paddle

from passl_sot.nn.precision import at_least_float32
from passl_sot.weights.checkpoint import CheckpointError

_MASTERS = "master_weights"  # Paddle's name


def load_model(model: paddle.nn.Layer, arrays: dict[str, np.ndarray], source: str) -> None:
    """Fills every entry of `model` from `arrays`, or changes nothing.

    Raises:
        CheckpointError: Names or shapes differ; lists them.
    """
    target = model.state_dict()
    # All is compared first, so that a model is never half filled.
    faults = [
        f"{name} is {list(a.shape)} in the file and {list(target[name].shape)} in the model"
        for name, a in arrays.items()
        if name in target and list(a.shape) != list(target[name].shape)
    ]
    faults += [f"{name} holds complex numbers" for name, a in arrays.items() if a.dtype.kind == "c"]
    faults += [f"missing {name} {list(t.shape)}" for name, t in target.items() if name not in arrays]
    faults += [f"unexpected {name} {list(a.shape)}" for name, a in arrays.items() if name not in target]
    if faults:
        shown = "\n  ".join(faults[:20])
        if len(faults) > 20:
            shown += f"\n  ... and {len(faults) - 20} more"
        raise CheckpointError(f"{source} doesn't fit the model:\n  {shown}")
    for name, tensor in target.items():
        tensor.set_value(paddle.to_tensor(arrays[name]).astype(tensor.dtype))


def start_from(model: paddle.nn.Layer, arrays: dict[str, np.ndarray], source: str) -> str:
    """Starts a new training from existing weights: everything must fit, but for the head's shapes.

    Returns:
        One sentence on the entries that were loaded and those left at their initial values.

    Raises:
        CheckpointError: Anything outside the head is missing, unexpected or misshapen, or nothing fits.
    """
    target = model.state_dict()
    head = {n: list(t.shape) for n, t in target.items() if n.startswith("head.")}
    fits = {n for n, a in arrays.items() if head.get(n) == list(a.shape)}
    kept = [n for n in head if n not in fits]
    usable = {n: a for n, a in arrays.items() if not n.startswith("head.") or n in fits}
    load_model(model, {**usable, **{n: target[n].numpy() for n in kept}}, source)
    text = f"{len(usable)} of {len(target)} entries from {source}"
    if kept:
        text += f"; left at their initial values: {', '.join(kept)}"
    return text


def optimizer_arrays(optimizer, model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """Optimizer state by structured parameter name."""
    # Paddle keys it by names such as `linear_0.w_0`, which depend on the layers built before.
    structured = {p.name: name for name, p in model.named_parameters()}
    arrays = {}
    entries = optimizer.state_dict()
    # Weights in float32 beside those in 16 bits, with level O2 of mixed precision; by parameter name.
    for parameter, value in entries.get(_MASTERS, {}).items():
        arrays[f"{structured[parameter]}|{_MASTERS}"] = value.numpy()
    for key, value in entries.items():
        if isinstance(value, paddle.Tensor):
            parameter = _owner(key, structured)
            arrays[f"{structured[parameter]}|{key[len(parameter) :]}"] = value.numpy()
    return arrays


def load_optimizer(optimizer, model: paddle.nn.Layer, arrays: dict[str, np.ndarray]) -> None:
    """Restores the arrays of `optimizer_arrays` into an optimizer of this process.

    Raises:
        CheckpointError: They are of parameters that the model doesn't have.
    """
    internal = {name: p.name for name, p in model.named_parameters()}
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    state: dict = {}
    for key, value in arrays.items():
        name, _, suffix = key.partition("|")
        if name not in internal:
            raise CheckpointError(f"the optimizer's state {key!r} is of no parameter of the model")
        if value.size > 1 and value.shape != shapes[name]:  # or it is a lone number
            raise CheckpointError(
                f"the optimizer's state {key!r} is {list(value.shape)}, not its parameter's shape"
            )
        tensor = paddle.to_tensor(value)
        if suffix == _MASTERS:
            state.setdefault(_MASTERS, {})[internal[name]] = tensor
        else:
            state[internal[name] + suffix] = tensor
    # Paddle creates the state's tensors lazily and takes these values when it does.
    optimizer.set_state_dict(state)


def _owner(key: str, parameters: dict[str, str]) -> str:
    """The parameter whose name begins an optimizer key such as `linear_0.w_0_moment1_0`."""
    # Longest first: `linear_1` begins `linear_1_b` as well.
    owner = key
    while owner not in parameters:
        owner = owner[: owner.rindex("_")]
    return owner


def training_arrays(
    model: paddle.nn.Layer, average: dict[str, paddle.Tensor] | None, optimizer: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """All tensors of a training run under their checkpoint prefixes; `optimizer` as of `optimizer_arrays`."""
    # 16 bits as float32: NumPy has no bfloat16.
    weights = {name: at_least_float32(tensor).numpy() for name, tensor in model.state_dict().items()}
    parts = {"model": weights, "optimizer": optimizer}
    if average is not None:
        parts["ema"] = {name: tensor.numpy() for name, tensor in average.items()}
    return {f"{prefix}.{name}": array for prefix, part in parts.items() for name, array in part.items()}
