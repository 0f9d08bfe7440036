"""Registration, building, lazy imports, and the exact words of the schema check."""

# ruff: noqa: E501 (messages are kept on one line)

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from passl_sot.config import (
    Config,
    ConfigError,
    Document,
    Registry,
    RegistryError,
    get_config,
    load_config,
    make_section,
)

NORMS = Registry("normalization", "json")
HEADS = Registry("head", "json")
STEPS = Registry("transform", "json")


@NORMS.register()
class SvPN:
    def __init__(self, *, dropout: float = 0.0):
        self.dropout = dropout


@NORMS.register()
class LayerNorm:
    pass


@HEADS.register()
class Head:
    def __init__(
        self,
        *,
        num_classes: int,
        drop_path_rate: float = 0.0,
        fusion: Literal["sum_fc", "concat"] = "sum_fc",
        sizes: tuple[int, int] = (1, 1),
        scale: list[float] | None = None,
        bias: bool = True,
        label: str = "x",
        extra: dict[str, int] | None = None,
        norm: Annotated[dict, NORMS] | None = None,
        anything: Any = None,
    ):
        self.args = {key: value for key, value in locals().items() if key != "self"}


@HEADS.register()
def linear_head(*, num_classes: int) -> dict:
    if num_classes < 1:
        raise ValueError("num_classes must be at least 1")
    return {"num_classes": num_classes}


@STEPS.register()
class Resize:
    def __init__(self, *, size: int | tuple[int, int]):
        self.size = size


@dataclass(kw_only=True)
class Sampler:
    batch_size: int
    shuffle: bool = True


@dataclass(kw_only=True)
class Data:
    sampler: Sampler
    steps: Annotated[list, STEPS] = field(default_factory=list)


@dataclass(kw_only=True)
class Optimizer:
    weight_decay: float = 0.0


@dataclass(kw_only=True)
class Whole(Document):
    epochs: int
    head: Annotated[dict, HEADS]
    data: Data | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")


def texts(faults: list) -> list[str]:
    return [str(fault) for fault in faults]


# -- building ---------------------------------------------------------------------------------------------
def test_build_leaves_the_config_alone(parse_config):
    cfg = parse_config(
        "{name: Head, num_classes: 3, sizes: [1, 2], scale: [1, 2.5], norm: {name: SvPN}, extra: {a: 1}}"
    )
    before = copy.deepcopy(cfg)
    head = HEADS.build(cfg)
    head.args["scale"].append(9)
    head.args["norm"]["name"] = "x"
    assert cfg == before and head.args["sizes"] == (1, 2) and head.args["num_classes"] == 3
    assert type(head.args["norm"]) is Config


def test_build_takes_plain_dicts_functions_and_runtime_arguments():
    assert HEADS.build({"name": "linear_head", "num_classes": 3}) == {"num_classes": 3}
    assert HEADS.build({"name": "linear_head"}, num_classes=4) == {"num_classes": 4}
    assert isinstance(NORMS.build({"name": "LayerNorm"}), LayerNorm)
    nested = HEADS.build({"name": "Head", "num_classes": 1, "norm": {"name": "SvPN"}}).args["norm"]
    assert NORMS.build(nested).dropout == 0
    with pytest.raises(
        RegistryError, match=r"no argument 'num_clases', which the caller passes; did you mean"
    ):
        HEADS.build({"name": "linear_head", "num_classes": 3}, num_clases=3)
    with pytest.raises(RegistryError, match=r"head\.num_classes is set in the config, but"):
        HEADS.build({"name": "linear_head", "num_classes": 3}, num_classes=3)


def test_make_section_builds_dataclasses_all_the_way(parse_config):
    cfg = parse_config("epochs: 1\nhead: {name: linear_head, num_classes: 2}\n"
                       "data: {sampler: {batch_size: 4}, steps: [{name: Resize, size: [2, 3]}]}\n")  # fmt: skip
    whole = make_section(Whole, cfg)
    assert whole.data == Data(sampler=Sampler(batch_size=4), steps=[{"name": "Resize", "size": [2, 3]}])
    assert STEPS.build(whole.data.steps[0]).size == (2, 3) and whole.optimizer == Optimizer()


def test_what_a_constructor_refuses_is_a_fault_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("epochs: 0\nhead: {name: linear_head,\n  num_classes: 0}\n", encoding="utf-8")
    cfg = get_config("x.yaml")
    with pytest.raises(ConfigError, match=r"x.yaml:2: head: linear_head: num_classes must be at least 1"):
        HEADS.build(cfg.head)
    with pytest.raises(ConfigError, match=r"x.yaml:1: epochs must be at least 1"):
        load_config(Whole, "x.yaml")


# -- registration -----------------------------------------------------------------------------------------
def test_registration_is_strict():
    registry = Registry("thing", "json")

    def stars(*, a: int, **rest: int): ...
    def args(*a: int): ...
    def positional(a: int): ...
    def bare(*, a): ...
    def foreign(*, a: Path): ...
    def named(*, name: str): ...
    def keyed(*, a: dict[int, str]): ...

    class Child(Head):
        pass

    @dataclass
    class Loose:
        a: int

    wanted: dict[Callable[..., Any], str] = {
        stars: r"stars takes \*\*rest; name every argument, or misspelt keys go unnoticed$",
        args: r"args takes \*a; name every argument",
        positional: r"positional: the argument 'a' must be keyword-only \(put '\*' before it\)$",
        bare: r"bare: the argument 'a' has no type hint; the hints are the schema$",
        foreign: r"foreign: the argument 'a' has the type hint .*Path.*, which a YAML value cannot be",
        keyed: r"keyed: the argument 'a' has the type hint dict\[int, str\]",
        named: r"named cannot take 'name', which chooses the class$",
        Loose: r"must be keyword-only \(@dataclass\(kw_only=True\)\)$",
    }
    for target, words in wanted.items():
        with pytest.raises(RegistryError, match=words):
            registry.register()(target)
    assert registry.names() == []
    assert registry.register()(Child) is Child and registry.register()(Child) is Child

    def again() -> type:
        class Child:
            pass

        return Child

    with pytest.raises(RegistryError, match=r"thing 'Child' of .* is already registered by .*; rename one"):
        registry.register()(again())
    with pytest.raises(RegistryError, match="belongs on a class or function"):
        registry.register()(3)  # type: ignore[type-var]


def test_an_inherited_constructor_is_named():
    class Base:
        def __init__(self, size=3): ...

    class Leaf(Base):
        pass

    with pytest.raises(RegistryError, match=r"\(the constructor is Base's; give Leaf its own\)"):
        Registry("thing", "json").register()(Leaf)


def test_unknown_names():
    with pytest.raises(RegistryError, match=r"^no normalization is named 'svpn'; did you mean 'SvPN'\? "
                                            r"\(known: LayerNorm, SvPN\)$"):  # fmt: skip
        NORMS.get("svpn")
    assert NORMS.get("SvPN") is SvPN and NORMS.names() == ["LayerNorm", "SvPN"]


# -- lazy imports -----------------------------------------------------------------------------------------
@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a package `lazy_pkg` with the given modules; forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**modules: str) -> Registry:
        root = tmp_path / "lazy_pkg"
        root.mkdir(exist_ok=True)
        head = "from passl_sot.config import Registry\nREG = Registry('thing', 'lazy_pkg')\n"
        (root / "__init__.py").write_text(head, encoding="utf-8")
        for name, text in modules.items():
            (root / f"{name}.py").write_text("from lazy_pkg import REG\n" + text, encoding="utf-8")
        import lazy_pkg  # type: ignore[import-not-found]

        return lazy_pkg.REG

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazy_pkg"]:
        del sys.modules[name]


def test_modules_are_imported_on_the_first_miss(package: Callable[..., Registry]):
    registry = package(
        one="@REG.register()\ndef One(): return 1\n", two="@REG.register()\ndef Two(): return 2\n"
    )
    assert "lazy_pkg.one" not in sys.modules
    assert registry.build({"name": "Two"}) == 2 and registry.names() == ["One", "Two"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("from lazy_pkg import nothing_such", "ImportError: cannot import name"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_a_broken_import_surfaces_each_time(package: Callable[..., Registry], line: str, error: str):
    registry = package(one=f"@REG.register()\ndef One(): return 1\n{line}\n")
    words = f"lazy_pkg.one, a module of the thing registry, cannot be imported: {error}"
    for _ in range(2):
        with pytest.raises(RegistryError, match=words):
            registry.names()


def test_other_errors_at_import_pass_through(package: Callable[..., Registry]):
    with pytest.raises(ZeroDivisionError):
        package(one="1 / 0\n").get("One")


# -- the check --------------------------------------------------------------------------------------------
def test_all_faults_of_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(
        "epoch: 3\n"
        "head:\n"
        "  name: Head\n"
        "  drop_path: 0.1\n"
        "  fusion: sumfc\n"
        "  weight_decay: 1\n"
        "  sizes: [1, 2, 3]\n"
        "  scale:\n"
        "    - 1\n"
        "    - '2'\n"
        "  bias: 1\n"
        "  label: 7\n"
        "  extra: {a: b}\n"
        "  norm: {name: svpn}\n"
        "data:\n"
        "  sampler: {batchsize: 3, shuffle: 'no'}\n"
        "  steps:\n"
        "    - {name: Resize, size: 2.0}\n"
        "    - Resize\n"
        "    - {size: 3}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(Whole, "x.yaml", ["Gloabl.epochs=1", "optimizer=3"])
    assert str(caught.value) == (
        "18 faults in the configuration:\n"
        "x.yaml:1: epoch: unknown key 'epoch'; did you mean 'epochs'?\n"
        "x.yaml:4: head.drop_path: Head has no argument 'drop_path'; did you mean 'drop_path_rate'?\n"
        "x.yaml:5: head.fusion: expected one of 'sum_fc', 'concat'; got 'sumfc'; did you mean 'sum_fc'?\n"
        "x.yaml:6: head.weight_decay: Head has no argument 'weight_decay'; 'weight_decay' belongs to optimizer\n"
        "x.yaml:7: head.sizes: expected a list of 2 integers, got [1, 2, 3]\n"
        "x.yaml:10: head.scale.1: expected a number, got '2'; remove the quotes\n"
        "x.yaml:11: head.bias: expected true or false, got 1\n"
        "x.yaml:12: head.label: expected text, got 7; put it in quotes\n"
        "x.yaml:13: head.extra.a: expected an integer, got 'b'\n"
        "x.yaml:14: head.norm.name: no normalization is named 'svpn'; did you mean 'SvPN'? "
        "(known: LayerNorm, SvPN)\n"
        "x.yaml:2: head: Head needs 'num_classes'; it takes num_classes (required), drop_path_rate, fusion, "
        "sizes, scale, bias, label, extra, norm, anything\n"
        "x.yaml:16: data.sampler.batchsize: 'sampler' has no key 'batchsize'; did you mean 'batch_size'?\n"
        "x.yaml:16: data.sampler.shuffle: expected true or false, got 'no'\n"
        "x.yaml:18: data.steps.0.size: expected an integer or a list of 2 integers, got 2.0; write 2\n"
        "x.yaml:19: data.steps.1: expected a transform section with a name, got 'Resize'; write {name: Resize}\n"
        "x.yaml:20: data.steps.2: has no 'name'; a transform is chosen by its name: Resize\n"
        "command line: Gloabl.epochs: unknown key 'Gloabl'; its 'epochs' belongs to the top level of the file\n"
        "command line: optimizer: expected a section with weight_decay; got 3\n"
        "（未知的配置项、值不在可选范围内、值的类型不对、未注册的名称、缺少必需的配置项；"
        "是否想写 'epochs'、'drop_path_rate'、'sum_fc'？）"
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("head.drop_path_rate=0.1", None),
        ("data.sampler.batch_size=2", None),
        ("optimizer.weight_decay=1", None),
        ("head.norm.name=SvPN", None),
        (
            "weights=x",
            "weights: unknown key 'weights'; it takes epochs (required), head (required), data, optimizer",
        ),
        ("wd=1", "wd: unknown key 'wd'; did you mean 'optimizer.weight_decay'?"),
        ("Epochs=1", "Epochs: unknown key 'Epochs'; did you mean 'epochs'?"),
        ("batch_size=1", "batch_size: unknown key 'batch_size'; 'batch_size' belongs to data.sampler"),
        (
            "+more.a=1",
            "more.a: unknown key 'more'; it takes epochs (required), head (required), data, optimizer",
        ),
        ("epochs=true", "epochs: expected an integer, got true"),
        ("epochs=", "epochs: expected an integer, got null (an empty value is null)"),
        ("head=Head", "head: expected a head section with a name, got 'Head'; write {name: Head}"),
        (
            "head.norm=None",
            "head.norm: expected a normalization section with a name or null, got 'None'; write null",
        ),
        (
            "data={sampler: {batch_size: 1}, steps: 3}",
            "data.steps: expected a list of transform sections, each with a name, got 3",
        ),
        ("head.name=3", "head.name: 'name' is 3; a head is chosen by its name: Head, linear_head"),
    ],
)
def test_overrides_are_judged_by_the_schema(tmp_path: Path, override: str, line: str | None):
    file = tmp_path / "x.yaml"
    file.write_text("epochs: 1\nhead: {name: Head, num_classes: 2}\n", encoding="utf-8")
    if line is None:
        load_config(Whole, file, [override])
        return
    with pytest.raises(ConfigError) as caught:
        load_config(Whole, file, [override])
    assert texts(caught.value.faults) == [f"command line: {line}"]


def test_missing_and_misspelt_required_key_is_one_fault():
    with pytest.raises(ConfigError) as caught:
        HEADS.build({"name": "linear_head", "num_clases": 3})
    assert texts(caught.value.faults) == [
        "head.num_clases: linear_head has no argument 'num_clases'; did you mean 'num_classes'?"
    ]
    with pytest.raises(
        ConfigError, match=r"the file needs 'batch_size'; it takes batch_size \(required\), shuffle"
    ):
        make_section(Sampler, {})
    with pytest.raises(ConfigError) as caught:
        HEADS.build(None)  # type: ignore[arg-type]
    assert texts(caught.value.faults) == ["head: expected a head section with a name, got null"]


def test_nothing_is_said_about_the_type_of_a_broken_reference(tmp_path: Path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "epochs: ${epoch}\n"
        "head: {name: Head, num_classes: 1, norm: '${nothing.here}', scale: ['${scale}']}\n"
        "data: {sampler: {batch_size: '${optimizer.weight_decay}'}, steps: ['${step}', {name: '${step}'}]}\n"
        "optimizer: {weight_decay: '${data.sampler.batch_size}'}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(Whole, file)
    assert [(fault.kind, fault.path) for fault in caught.value.faults] == [
        ("reference", path)
        for path in (
            "epochs",
            "head.norm",
            "head.scale.0",
            "data.sampler.batch_size",
            "data.steps.0",
            "data.steps.1.name",
        )
    ]
