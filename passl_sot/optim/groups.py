"""Which parameters are decayed, by the rule that timm and the papers' code share."""


def decays(name: str, ndim: int, no_weight_decay: set[str]) -> bool:
    """Whether a trainable parameter gets weight decay.

    Parameters with fewer than two dimensions (norms, biases, svPN's start vector) and those that the
    model names in `no_weight_decay()` don't.
    """
    return ndim >= 2 and not name.endswith(".bias") and name not in no_weight_decay


def decay_groups(model) -> tuple[list[str], list[str]]:
    """Splits the trainable parameters of `model` by `decays`.

    Returns:
        Names with decay, names without; frozen parameters (BatchNorm statistics included) are in neither.
    """
    skip = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    trainable = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    with_decay = [name for name, p in trainable if decays(name, p.ndim, skip)]
    without = [name for name, p in trainable if not decays(name, p.ndim, skip)]
    return with_decay, without
