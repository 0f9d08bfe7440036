"""Values out of range: all of them at once, each with the line of its key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from passl_sot.config import (
    ConfigError,
    Count,
    Document,
    Natural,
    NotEmpty,
    Positive,
    Range,
    Registry,
    Rule,
    Share,
    load_config,
    make_section,
)

NORMS = Registry("norm", "passl_sot.config.signature")


@NORMS.register()
class Power:
    def __init__(self, *, num_iters: Count = 1, eps: Positive = 1e-5, drop_rate: Share = 0.0):
        self.num_iters = num_iters


@dataclass(kw_only=True)
class Loader:
    workers: Natural | Literal["auto"] = "auto"
    size: Count | list[Count] = 1


@dataclass(kw_only=True)
class Top(Document):
    epochs: Count
    norm: Annotated[dict, NORMS]
    loader: Loader = field(default_factory=Loader)
    seed: Annotated[int, Range(min=0, max=7)] = 0
    out: Annotated[str, NotEmpty()] = "x"
    rate: float = 1.0
    interval: Count | None = None
    middle: Annotated[float, Range(above=-1, max=1)] = 0
    table: dict[str, Share] | None = None


TEXT = """epochs: 0
norm:
  name: Power
  num_iters: 0
  eps: .nan
  drop_rate: 1.0
loader:
  workers: -1
  size:
    - 3
    - 0
seed: 8
out: ""
rate: -.inf
interval: 0
middle: -1
table:
  a: 2
"""


def test_all_faults_at_once_with_their_lines(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(Top, path)
    assert {fault.kind for fault in caught.value.faults} == {"value"}
    assert [(f.origin.line, f.path, f.message) for f in caught.value.faults] == [
        (1, "epochs", "must be at least 1, got 0"),
        (4, "norm.num_iters", "must be at least 1, got 0"),
        (5, "norm.eps", "must be a finite number, got nan"),
        (6, "norm.drop_rate", "must lie in [0, 1), got 1.0"),
        (8, "loader.workers", "must be at least 0, got -1"),
        (11, "loader.size.1", "must be at least 1, got 0"),
        (12, "seed", "must lie in [0, 7], got 8"),
        (13, "out", "must not be empty, got ''"),
        (14, "rate", "must be a finite number, got -inf"),
        (15, "interval", "must be at least 1, got 0"),
        (16, "middle", "must lie in (-1, 1], got -1"),
        (18, "table.a", "must lie in [0, 1), got 2"),
    ]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"loader": {"workers": 0, "size": [1, 2]}},
        {"loader": {"workers": "auto"}, "interval": None, "seed": 7, "table": {"a": 0}},
    ],
)
def test_values_in_range(more):
    assert make_section(Top, {"epochs": 1, "norm": {"name": "Power"}, **more}).epochs == 1


@pytest.mark.parametrize(
    ("rule", "value", "words"),
    [
        (Range(min=1), True, None),
        (Range(min=1), None, None),
        (Range(max=2), 3, "must be at most 2, got 3"),
        (Range(below=2), 2, "must be below 2, got 2"),
        (Range(above=0), 0.0, "must be above 0, got 0.0"),
        (Range(min=0), float("nan"), "must be at least 0, got nan"),
        (NotEmpty(), [], "must not be empty, got []"),
    ],
)
def test_complaints(rule: Rule, value, words: str | None):
    assert rule.complaint(value) == words


def faults_of(tree: dict) -> list:
    with pytest.raises(ConfigError) as caught:
        make_section(Top, tree)
    return caught.value.faults


def test_types_come_before_ranges():
    (fault,) = faults_of({"epochs": "3", "norm": {"name": "Power"}})
    assert (fault.kind, fault.message) == ("type", "expected an integer, got '3'; remove the quotes")
    (fault,) = faults_of({"epochs": 1, "rate": 10**400, "norm": {"name": "Power"}})
    assert fault.message.startswith("must be a finite number")


@pytest.mark.parametrize(("key", "near"), [("iterations", "num_iters"), ("dropout", "drop_rate")])
def test_the_suggestion_is_an_argument_of_the_class(key: str, near: str):
    (fault,) = faults_of({"epochs": 1, "norm": {"name": "Power", key: 1}})
    assert fault.message == f"Power has no argument '{key}'; did you mean '{near}'?"
    assert fault.suggestion == near


def test_a_key_of_another_section_is_sent_home():
    (fault,) = faults_of({"epochs": 1, "norm": {"name": "Power", "workers": 1}})
    assert fault.message == "Power has no argument 'workers'; 'workers' belongs to loader"
