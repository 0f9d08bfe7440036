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
    get_config,
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


SETS = Registry("set", "json", alike=True)


@SETS.register()
class Folder:
    def __init__(self, *, root: str, steps: list[int], endings: list[str] | None = None):
        pass


@SETS.register()
class Packed:
    def __init__(self, *, root: str, steps: list[int], part: str = "all"):
        pass


@dataclass(kw_only=True)
class Split:
    dataset: Annotated[dict, SETS] | None = None


@dataclass(kw_only=True)
class Data(Document):
    train: Split
    head: Annotated[dict, HEADS]


DATA = """
train:
  dataset: {name: Folder, root: a, steps: [1, 2], endings: [jpg]}
head: {name: Head, num_classes: 3}
"""


def test_another_name_keeps_what_classes_that_are_alike_share(tmp_path, caplog):
    path = tmp_path / "x.yaml"
    path.write_text(DATA, encoding="utf-8")
    rename = ["train.dataset.root=b", "train.dataset.name=Packed", "train.dataset.part=x"]
    whole = load_config(Data, path, rename)
    assert whole.to_dict()["train"]["dataset"] == {
        "name": "Packed",
        "root": "b",
        "steps": [1, 2],
        "part": "x",
    }
    assert [record.getMessage() for record in caplog.records] == [
        "train.dataset: Packed takes no endings: left out"
    ]
    assert get_config(path, rename, schema=Data) == whole.to_dict()
    # Without the schema, or in a registry of things that differ, and in files, it begins anew.
    assert get_config(path, ["train.dataset.name=Packed"]).train.dataset == {"name": "Packed"}
    assert get_config(path, ["head.name=Other"], schema=Data).head == {"name": "Other"}
    over = tmp_path / "y.yaml"
    over.write_text("_base_: x.yaml\ntrain: {dataset: {name: Packed, root: b}}\n", encoding="utf-8")
    assert get_config(over, schema=Data).train.dataset == {"name": "Packed", "root": "b"}
    with pytest.raises(ConfigError, match="no set is named 'Pack'; did you mean 'Packed'"):
        load_config(Data, path, ["train.dataset.name=Pack"])


def test_a_stored_tree_takes_the_place_of_a_file(tmp_path):
    path = tmp_path / "weights.bin"
    stored = {
        "train": {"dataset": {"name": "Folder", "root": "${x}", "steps": [1]}},
        "head": {"name": "Head"},
    }
    with pytest.raises(ConfigError) as caught:
        load_config(Data, path, ["train.dataset.steps.0=7"], stored=stored)
    assert str(caught.value.faults[0]).startswith(f"{path}: head: Head needs 'num_classes'")
    stored["head"]["num_classes"] = 2
    whole = load_config(Data, path, ["train.dataset.steps.0=7"], stored=stored)
    assert whole.train.dataset == {"name": "Folder", "root": "${x}", "steps": [7]}


def test_one_text_read_twice_gives_trees_of_their_own(parse_config):
    """Its YAML nodes are kept from the first time."""
    text = "a: {b: [1, {c: 2}]}\n"
    first = parse_config(text)
    first.a.b[1].c = 9
    first.a.b.append(3)
    first.a.d = 1
    assert parse_config(text).to_dict() == {"a": {"b": [1, {"c": 2}]}}
