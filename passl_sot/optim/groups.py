"""Groups of parameters: which train, which are decayed, and at what share of the learning rate.

Names are the structured ones of the model (`backbone.blocks.0.attn.qkv.weight`); patterns are those of a
shell (`backbone.*`, where `*` also spans dots, `?`, `[0-9]`).
"""

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import paddle

from passl_sot.config import NotEmpty, Positive, Range
from passl_sot.config.chinese import zh
from passl_sot.config.loader import ConfigError, Fault
from passl_sot.optim.schedules import Schedule

_Pattern = Annotated[str, NotEmpty()]


@dataclass(kw_only=True)
class LrFactor:
    """One item of `parameters.lr_factors`.

    Attributes:
        pattern: Names of the parameters.
        factor: Their share of the learning rate.
        scales: What it multiplies: "all" rates, or the "peak" alone, with the schedule's `warmup_lr` and
            `min_lr` as for the others (a PyTorch optimiser's group with a rate of its own).
    """

    pattern: _Pattern
    factor: Positive
    scales: Literal["all", "peak"] = "all"


@dataclass(kw_only=True)
class ParametersSection:
    """`parameters:` what fine-tuning does to some parameters and not to others.

    Attributes:
        freeze: Patterns of parameters that don't train. Statistics of BatchNorm are none; `training_mode` has
            them frozen.
        layer_decay: Share of the rate from one layer to the one before it: factor
            `layer_decay ** (last - layer)`, the head being last (BEiT, arXiv 2106.08254). null for none.
        lr_factors: Shares of the rate by pattern; of several that match, the first counts. They multiply with
            that of `layer_decay`.
        weight_decay_on: "weights" (parameters of two or more dimensions but for biases and what the model
            names), or "all" that train, as a plain PyTorch optimiser does.
    """

    freeze: list[_Pattern] = field(default_factory=list)
    layer_decay: Annotated[float, Range(above=0, max=1)] | None = None
    lr_factors: list[LrFactor] = field(default_factory=list)
    weight_decay_on: Literal["weights", "all"] = "weights"


@dataclass(kw_only=True)
class ParameterGroup:
    """Parameters that are treated alike.

    Attributes:
        title: What they have in common.
        decayed: Whether they get weight decay.
        factor: Their share of the learning rate.
        peak: Their share of its peak alone.
        parameters: By name.
    """

    title: str
    decayed: bool
    factor: float = 1.0
    peak: float = 1.0
    parameters: dict[str, paddle.Tensor] = field(default_factory=dict)


def decays(name: str, ndim: int, no_weight_decay: set[str]) -> bool:
    """Whether a trainable parameter gets weight decay, by the rule that timm and the papers' code share.

    Parameters with fewer than two dimensions (norms, biases, svPN's start vector) and those that the
    model names in `no_weight_decay()` don't.
    """
    return ndim >= 2 and not name.endswith(".bias") and name not in no_weight_decay


def decay_groups(model) -> tuple[list[str], list[str]]:
    """Splits the trainable parameters of `model` by `decays`.

    Returns:
        Names with decay, names without; frozen parameters (BatchNorm statistics included) are in neither.
    """
    groups = group_parameters(model)
    with_decay, without = (
        [n for g in groups if g.decayed is on for n in g.parameters] for on in (True, False)
    )
    return with_decay, without


def freeze(model: paddle.nn.Layer, patterns: Sequence[str]) -> set[str]:
    """Stops the training of the parameters that any of the patterns matches.

    Returns:
        Their names.

    Raises:
        ConfigError: A pattern matches no trainable parameter, or none is left to train.
    """
    trainable = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    _check_patterns("parameters.freeze", patterns, list(trainable))
    frozen = {name for name in trainable if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    if frozen and len(frozen) == len(trainable):
        message = f"{', '.join(patterns)} match every parameter, so nothing is left to train" + zh(
            "nothing_trainable"
        )
        raise ConfigError([Fault("parameters.freeze", message)])
    for name in frozen:
        trainable[name].stop_gradient = True
    return frozen


def group_parameters(
    model: paddle.nn.Layer, section: ParametersSection | None = None
) -> list[ParameterGroup]:
    """Sorts the trainable parameters of `model` into groups, in order of their first members.

    Args:
        model: A classifier; without `layer_decay` any layer.
        section: The `parameters:` section; its `freeze` has been done.

    Raises:
        ConfigError: A pattern matches no trainable parameter.
    """
    section = section or ParametersSection()
    skip = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    trainable = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    _check_patterns(
        "parameters.lr_factors", [entry.pattern for entry in section.lr_factors], list(trainable), ".pattern"
    )
    groups: dict[tuple, ParameterGroup] = {}
    for name, parameter in trainable.items():
        decayed = section.weight_decay_on == "all" or decays(name, parameter.ndim, skip)
        entry = next((e for e in section.lr_factors if fnmatch.fnmatchcase(name, e.pattern)), None)
        titles, factor, peak = [], 1.0, 1.0
        if section.layer_decay is not None:
            layer = model.layer_of(name)
            titles.append(f"layer {layer}")
            factor = section.layer_decay ** (model.num_layers - layer)
        if entry is not None:
            titles.append(entry.pattern)
            factor, peak = (factor * entry.factor, 1.0) if entry.scales == "all" else (factor, entry.factor)
        title = ", ".join(titles) or ("others" if section.lr_factors else "all")
        group = groups.setdefault(
            (title, decayed), ParameterGroup(title=title, decayed=decayed, factor=factor, peak=peak)
        )
        group.parameters[name] = parameter
    return list(groups.values())


def set_rates(
    optimizer,
    groups: Sequence[ParameterGroup],
    schedule: Schedule,
    at: tuple[int, float, int],
    batch_factor: float = 1.0,
) -> float:
    """Gives an optimiser and each group its learning rate.

    Args:
        optimizer: Paddle's optimiser.
        groups: All its parameters.
        schedule: Gives the rate.
        at: Epoch, done share of it, and epochs of the run.
        batch_factor: What the batch scales the rate by.

    Returns:
        The rate of parameters whose factors are 1.
    """
    rate = schedule.lr(*at, batch_factor)
    optimizer.set_lr(rate)
    for group in groups:
        own = schedule.lr(*at, batch_factor, group.peak) * group.factor
        for parameter in group.parameters.values():
            # Paddle multiplies an optimiser's rate by this; at a rate of 0 all are 0.
            parameter.optimize_attr["learning_rate"] = own / rate if rate else 1.0
    return rate


def describe_groups(
    groups: Sequence[ParameterGroup], weight_decay: float, frozen: dict[str, paddle.Tensor]
) -> list[str]:
    """The groups as a table, one line a group.

    Args:
        groups: As of `group_parameters`.
        weight_decay: The optimiser's.
        frozen: Parameters frozen by pattern.
    """
    rows = [("parameter group", "tensors", "parameters", "weight decay", "learning rate")]
    for group in groups:
        share = "x 1" if group.peak == 1 else f"x {group.peak:.4g} at its peak"
        if group.factor != 1:
            share = f"x {group.factor:.4g}" + ("" if group.peak == 1 else f", {share}")
        decay = f"{weight_decay:g}" if group.decayed else "0"
        rows.append((group.title, *_size(group.parameters), decay, share))
    if frozen:
        rows.append(("frozen", *_size(frozen), "-", "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, 4) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _size(parameters: dict[str, paddle.Tensor]) -> tuple[str, str]:
    return str(len(parameters)), f"{sum(int(p.size) for p in parameters.values()):,}"


def _check_patterns(path: str, patterns: Sequence[str], names: list[str], tail: str = "") -> None:
    faults = []
    for i, pattern in enumerate(patterns):
        if not fnmatch.filter(names, pattern):
            plain = re.sub(r"[*?\[\]]+", "", pattern)
            near = difflib.get_close_matches(plain, _prefixes(names), n=3, cutoff=0.5)
            hint = (
                f"; nearest: {', '.join(near)}" if near else f"; names begin with {', '.join(_roots(names))}"
            )
            message = f"'{pattern}' matches no trainable parameter{hint}" + zh("pattern_matches_nothing")
            faults.append(Fault(f"{path}.{i}{tail}", message))
    if faults:
        raise ConfigError(faults)


def _prefixes(names: Sequence[str]) -> list[str]:
    """Names and the layers that hold them, those with a wildcard behind them."""
    layers = dict.fromkeys(
        ".".join(parts[:depth]) + ".*"
        for parts in (name.split(".") for name in names)
        for depth in range(1, len(parts))
    )
    return [*layers, *names]


def _roots(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))
