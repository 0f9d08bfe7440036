"""A file as one typed object, read and checked once."""

import copy
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from passl_sot.config import (
    Config,
    ConfigError,
    Count,
    Document,
    Range,
    Registry,
    load_config,
)

HEADS = Registry("head", "json")
NORMS = Registry("normalization", "json")
CHECKED: list[object] = []


@dataclass(frozen=True)
class Watched(Range):
    """Notes each value that a check looks at."""

    def complaint(self, value):
        CHECKED.append(value)
        return super().complaint(value)


@NORMS.register()
class LayerNorm:
    def __init__(self, *, eps: Annotated[float, Watched(min=0)] = 0.0):
        self.eps = eps


@HEADS.register()
class Head:
    def __init__(
        self,
        *,
        num_classes: Annotated[int, Watched(min=1)],
        sizes: list[int] | None = None,
        norm: Annotated[dict, NORMS] | None = None,
    ):
        self.num_classes = num_classes
        self.sizes = sizes
        self.norm = NORMS.build(norm) if norm else None


@dataclass(kw_only=True)
class Log:
    interval: Count = 50


@dataclass(kw_only=True)
class Whole(Document):
    head: Annotated[dict, HEADS]
    epochs: int = 1
    log: Log = field(default_factory=Log)

    def __post_init__(self):
        if self.epochs < self.log.interval:
            raise ValueError("epochs must reach log.interval")


TEXT = """epochs: 9
log: {interval: 2}
head:
  name: Head
  num_classes: 3
  sizes: [1]
  norm: {name: LayerNorm, eps: 5}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CHECKED.clear()
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    return "x.yaml"


def test_a_document_is_checked_once_and_its_nodes_are_built_without_another_check(file, caplog):
    with caplog.at_level(logging.DEBUG, logger="passl_sot.config"):
        whole = load_config(Whole, file, ["epochs=7"])
    assert len(caplog.records) == 1 and CHECKED == [3, 5]
    assert whole.epochs == 7 and whole.log == Log(interval=2) and type(whole.head) is Config
    head = HEADS.build(whole.head)
    assert head.num_classes == 3 and head.norm.eps == 5 and CHECKED == [3, 5]
    HEADS.build(copy.deepcopy(whole.head))
    assert CHECKED == [3, 5]


def test_a_changed_node_is_checked_again(file):
    whole = load_config(Whole, file)
    whole.head.num_classes = 0
    with pytest.raises(ConfigError, match=r"head\.num_classes: must be at least 1, got 0"):
        HEADS.build(whole.head)
    whole.head.num_classes = 3
    whole.head.sizes.append("a")
    with pytest.raises(ConfigError, match=r"x\.yaml:6: head\.sizes\.1: expected an integer, got 'a'"):
        HEADS.build(whole.head)


def test_a_document_keeps_its_tree(file):
    whole = load_config(Whole, file, ["head.num_classes=4"])
    assert whole.to_dict() == {
        "epochs": 9,
        "log": {"interval": 2},
        "head": {"name": "Head", "num_classes": 4, "sizes": [1], "norm": {"name": "LayerNorm", "eps": 5}},
    }
    assert whole.dump().startswith("epochs: 9\nlog:\n  interval: 2\n")
    assert str(whole.origin("head.num_classes")) == "command line"
    assert str(whole.origin("head.norm.eps")) == "x.yaml:7"
    assert str(whole.origin("head.width")) == "x.yaml:3"


def test_all_faults_of_a_document_at_once(file):
    with pytest.raises(ConfigError) as caught:
        load_config(Whole, file, ["epoch=1", "log.interval=0", "a"])
    assert [str(fault) for fault in caught.value.faults] == [
        "command line: the override 'a' is not of the form key=value",
        "command line: log.interval: must be at least 1, got 0",
        "command line: epoch: unknown key 'epoch'; did you mean 'epochs'?",
    ]
    with pytest.raises(ConfigError, match=r"x\.yaml:1: epochs must reach log\.interval"):
        load_config(Whole, file, ["epochs=1"])
