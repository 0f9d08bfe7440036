"""Groups of parameters: which train, which are decayed, and at which fraction of the learning rate.

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

from passl_sot.config import ConfigError, Fault, NotEmpty, Positive, Range, zh
from passl_sot.optim.schedules import Schedule

_Pattern = Annotated[str, NotEmpty()]


@dataclass(kw_only=True)
class LrFactor:
    """One item of `parameters.lr_factors`.

    Attributes:
        factor: Their fraction of the learning rate.
        scales: Rates that it multiplies: "all", or the "peak" alone, with the schedule's `warmup_lr` and
            `min_lr` as for the others (a PyTorch optimizer's group with a rate of its own).
    """

    pattern: _Pattern
    factor: Positive
    scales: Literal["all", "peak"] = "all"


@dataclass(kw_only=True)
class ParametersSection:
    """`parameters:` of an experiment, for fine-tuning.

    Attributes:
        freeze: Patterns of parameters that don't train. Statistics of BatchNorm are none; `training_mode` has
            them frozen.
        layer_decay: Factor of the rate from one layer to the one before it, `layer_decay ** (last - layer)`
            in all, the head being last (BEiT, arXiv 2106.08254). null for none.
        lr_factors: Factors of the rate by pattern; of several that match, the first counts. They multiply
            with that of `layer_decay`.
        weight_decay_on: "weights" (parameters of two or more dimensions but for biases and what the model
            names), or "all" that train, as a plain PyTorch optimizer does.
    """

    freeze: list[_Pattern] = field(default_factory=list)
    layer_decay: Annotated[float, Range(above=0, max=1)] | None = None
    lr_factors: list[LrFactor] = field(default_factory=list)
    weight_decay_on: Literal["weights", "all"] = "weights"


@dataclass(kw_only=True)
class ParameterGroup:
    """Parameters that are treated alike, by name."""

    title: str  # their layer or pattern
    decayed: bool
    factor: float = 1.0  # their fraction of the learning rate
    peak: float = 1.0  # their fraction of its peak alone
    parameters: dict[str, paddle.Tensor] = field(default_factory=dict)


def freeze(model: paddle.nn.Layer, patterns: Sequence[str]) -> set[str]:
    """Stops the training of the parameters that any of the patterns matches; returns their names.

    A ConfigError if a pattern matches no trainable parameter, or none is left to train.
    """
    trainable = _trainable(model)
    _check_patterns("parameters.freeze.{}", patterns, list(trainable))
    frozen = {name for name in trainable if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    if frozen and len(frozen) == len(trainable):
        message = f"{', '.join(patterns)} match every parameter, so nothing is left to train"
        raise ConfigError([Fault("parameters.freeze", message + zh("nothing_trainable"))])
    for name in frozen:
        trainable[name].stop_gradient = True
    return frozen


def group_parameters(
    model: paddle.nn.Layer, section: ParametersSection | None = None
) -> list[ParameterGroup]:
    """Sorts the trainable parameters into groups, in order of their first members.

    `model` is a classifier, or without `layer_decay` any layer. The section's `freeze` has been done. A
    ConfigError if a pattern matches no trainable parameter.
    """
    section = section or ParametersSection()
    skip = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    trainable = _trainable(model)
    patterns = [entry.pattern for entry in section.lr_factors]
    _check_patterns("parameters.lr_factors.{}.pattern", patterns, list(trainable))
    groups: dict[tuple[str, bool], ParameterGroup] = {}
    for name, parameter in trainable.items():
        # Not biases, nor what the model names, as timm and the papers' code have it.
        decayed = parameter.ndim >= 2 and not name.endswith(".bias") and name not in skip
        titles = []
        factors = {"all": 1.0, "peak": 1.0}  # by `LrFactor.scales`
        if section.layer_decay is not None:
            layer = model.layer_of(name)
            titles.append(f"layer {layer}")
            factors["all"] = section.layer_decay ** (model.num_layers - layer)
        for entry in section.lr_factors:
            if fnmatch.fnmatchcase(name, entry.pattern):
                titles.append(entry.pattern)
                factors[entry.scales] *= entry.factor
                break  # the first that matches counts
        group = ParameterGroup(
            title=", ".join(titles) or ("others" if section.lr_factors else "all"),
            decayed=decayed or section.weight_decay_on == "all",
            factor=factors["all"],
            peak=factors["peak"],
        )
        groups.setdefault((group.title, group.decayed), group).parameters[name] = parameter
    return list(groups.values())


def set_rates(
    optimizer: paddle.optimizer.Optimizer,
    groups: Sequence[ParameterGroup],
    schedule: Schedule,
    at: tuple[int, float, int],
    batch_factor: float = 1.0,
) -> float:
    """Gives an optimizer, and each group of its parameters, the learning rate of a point of the run.

    That is `at`: epoch, done fraction of it, and epochs of the run. `batch_factor` scales the rate by the
    batch. Returns the rate of parameters whose factors are 1.
    """
    rate = schedule.lr(*at, batch_factor)
    optimizer.set_lr(rate)
    for group in groups:
        own = schedule.lr(*at, batch_factor, group.peak) * group.factor
        for parameter in group.parameters.values():
            # Paddle multiplies an optimizer's rate by this; at a rate of 0 all are 0.
            parameter.optimize_attr["learning_rate"] = own / rate if rate else 1.0
    return rate


def describe_groups(
    groups: Sequence[ParameterGroup], weight_decay: float, frozen: dict[str, paddle.Tensor]
) -> list[str]:
    """The groups, and the parameters frozen by pattern, as a table of one line a group."""
    rows = [("parameter group", "tensors", "parameters", "weight decay", "learning rate")]
    for group in groups:
        factors = []
        if group.factor != 1:
            factors.append(f"x {group.factor:.4g}")
        if group.peak != 1:
            factors.append(f"x {group.peak:.4g} at its peak")
        decay = f"{weight_decay * group.decayed:g}"
        rows.append((group.title, *_size(group.parameters), decay, ", ".join(factors) or "x 1"))
    if frozen:
        rows.append(("frozen", *_size(frozen), "-", "-"))
    w = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{title:<{w[0]}}  {tensors:>{w[1]}}  {size:>{w[2]}}  {decay:>{w[3]}}  {rate}"
        for title, tensors, size, decay, rate in rows
    ]


def _trainable(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    return {name: p for name, p in model.named_parameters() if not p.stop_gradient}


def _size(parameters: dict[str, paddle.Tensor]) -> tuple[str, str]:
    return str(len(parameters)), f"{sum(int(p.size) for p in parameters.values()):,}"


def _check_patterns(path: str, patterns: Sequence[str], names: list[str]) -> None:
    # Layers that hold some parameters, such as `head.*`, outer ones first.
    ends = [(name, dot.start()) for name in names for dot in re.finditer(r"\.", name)]
    layers = dict.fromkeys(f"{name[:end]}.*" for name, end in ends)
    faults = []
    for i, pattern in enumerate(patterns):
        if fnmatch.filter(names, pattern):
            continue
        # Without the wildcards, which would count as wrong letters.
        plain = re.sub(r"[*?\[\]]+", "", pattern)
        near = difflib.get_close_matches(plain, [*layers, *names], n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}"
        if not near:
            roots = dict.fromkeys(name.split(".")[0] for name in names)
            hint = f"names begin with {', '.join(roots)}"
        message = f"'{pattern}' matches no trainable parameter; {hint}" + zh("pattern_matches_nothing")
        faults.append(Fault(path.format(i), message))
    if faults:
        raise ConfigError(faults)
