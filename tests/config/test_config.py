"""Config as a dict, the loader's formats, inheritance, references and overrides."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from passl_sot.config import Config, ConfigError, Origin, find_config, get_config, path_of

Write = Callable[..., Path]
Parse = Callable[[str], Config]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into the current folder, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)

    def make(folders: dict[str, str] | None = None, /, **files: str) -> Path:
        for name, text in {**(folders or {}), **files}.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return make


def fault_lines(path: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        get_config(path, overrides)
    return [str(fault) for fault in caught.value.faults]


# -- Config ---------------------------------------------------------------------------------------------
def test_attributes_are_items():
    cfg = Config({"model": {"depth": 3}, "items_": [{"a": 1}]})
    assert isinstance(cfg, dict) and cfg.model.depth == 3 and cfg["model"]["depth"] == 3
    assert cfg.items_[0].a == 1 and type(cfg.items_) is list
    cfg.model.width = {"x": 1}
    assert cfg["model"]["width"].x == 1
    del cfg.model.width
    assert "width" not in cfg.model and hasattr(cfg, "model") and not hasattr(cfg, "depth")
    cfg.update(a={"b": 2})
    assert cfg.a.b == 2 and cfg.setdefault("c", {"d": 1}).d == 1 and (cfg | {"e": {"f": 1}}).e.f == 1
    cfg |= {"g": {"h": 2}}
    assert cfg.g.h == 2 and "model" in dir(cfg)


def test_attribute_errors_name_the_nearest_key(parse_config: Parse):
    cfg = parse_config("model: {embed_dim: 3}")
    with pytest.raises(AttributeError, match=r"no key 'embeddim' in 'model'; did you mean 'embed_dim'\?"):
        _ = cfg.model.embeddim
    with pytest.raises(AttributeError, match="did you mean 'model'"):
        del cfg.modle
    with pytest.raises(AttributeError, match=r"write cfg\['items'\]"):
        cfg.items = 3


def test_a_list_of_scalars_stays_the_same_object():
    values = [1, 2]
    cfg = Config(a=values)
    assert cfg.a is values


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, Config.copy, Config, lambda c: pickle.loads(pickle.dumps(c))],
    ids=["copy", "deepcopy", "method", "constructor", "pickle"],
)
def test_copies_keep_origins(parse_config: Parse, clone: Callable[[Config], Config]):
    cfg = parse_config("a: 1\nb:\n  c: [1,\n    2]\n")
    twin = clone(cfg)
    assert twin == cfg and type(twin) is Config and type(twin.b) is Config
    assert twin.origin_of("a") == Origin("text.yaml", 1)
    assert twin.b.origin_of("c.1") == Origin("text.yaml", 4) and path_of(twin.b) == "b"
    twin.a = 2
    assert twin.origin_of("a") is None and cfg.origin_of("a") == Origin("text.yaml", 1) and cfg.a == 1


def test_deepcopy_is_independent_and_to_dict_is_plain(parse_config: Parse):
    cfg = parse_config("a: {b: [1, {c: 2}]}")
    twin = copy.deepcopy(cfg)
    twin.a.b[1].c = 3
    assert cfg.a.b[1].c == 2
    plain = cfg.to_dict()
    assert type(plain["a"]) is dict and type(plain["a"]["b"][1]) is dict and plain == cfg


def test_dump_keeps_order_and_types(parse_config: Parse):
    text = 'b: 0.0005\na: "5e-4"\nd: [1, 2.0]\nc: $${x}\nt: "12:30"\nn: null\ny: "yes"\nk: "2021-12-24"\n'
    cfg = parse_config(text)
    again = parse_config(cfg.dump())
    assert again == cfg and list(again) == list("badctnyk")
    assert type(again.b) is float and again.a == "5e-4" and again.c == "${x}"
    with pytest.raises(TypeError, match=r"^a\.b: a value of type \w*Path cannot be written as YAML"):
        Config(a={"b": Path("x")}).dump()


# -- formats ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e3", 1e3),
        (".5e-1", 0.05),
        ("1E+2", 100.0),
        ("-1.5e-3", -0.0015),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("1_000", 1000),
        ("0x1F", 31),
        ("010", 10),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1e5x", "1e5x"),
        ("12:30", "12:30"),
        ("2021-12-24", "2021-12-24"),
        ("=", "="),
        ("'5e-4'", "5e-4"),
        ("true", True),
        ("no", False),
        ("~", None),
        ("", None),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
    ],
)
def test_scalars(parse_config: Parse, text: str, value: object):
    got = parse_config(f"a: {text}").a
    assert got == value and type(got) is type(value)


def test_anchors_give_independent_copies_and_merge_keys_yield(parse_config: Parse):
    cfg = parse_config("a: &x {p: [1], q: 2}\nb: *x\nc: {<<: *x, q: 3}\nd:\n  <<: [{r: 1}, {r: 2, s: 3}]\n")
    cfg.b.p.append(2)
    assert cfg.a.p == [1] and cfg.c == {"p": [1], "q": 3} and cfg.d == {"r": 1, "s": 3}


def test_whole_numbers_are_keys_below_the_top_level(write: Write, parse_config: Parse):
    text = "m: {drop_path_rate: {0: 0.4, 260: 0.6}}"
    write(x=text)
    assert get_config("x.yaml").m.drop_path_rate == {"0": 0.4, "260": 0.6}
    assert get_config("x.yaml", ["m.drop_path_rate={0: 0.1}"]).m.drop_path_rate == {"0": 0.1}
    assert get_config("x.yaml", ["m.drop_path_rate.260=0.5"]).m.drop_path_rate == {"0": 0.4, "260": 0.5}
    assert parse_config(parse_config(text).dump()) == parse_config(text)
    for wrong in ("01", "1_0", "-1", "0x1", "1e3"):
        with pytest.raises(ConfigError, match=f"reads {wrong} as a number"):
            parse_config(f"m: {{{wrong}: a}}")


def test_byte_order_mark_is_tolerated(tmp_path: Path):
    (tmp_path / "x.yaml").write_bytes("\ufeffa: 图\n".encode())
    assert get_config(tmp_path / "x.yaml").a == "图"


def test_every_key_knows_its_line(write: Write):
    write(x="a: 1\nb:\n  c: 2\n  d:\n    - e: 1\n    - f: 2\n")
    cfg = get_config("x.yaml", ["b.c=5"])
    assert str(cfg.origin_of("a")) == "x.yaml:1" and str(cfg.origin_of("b")) == "x.yaml:2"
    assert str(cfg.b.origin_of("c")) == "command line"
    assert str(cfg.b.d[1].origin_of("f")) == "x.yaml:6" and str(cfg.origin_of("b.d.1")) == "x.yaml:6"
    assert path_of(cfg.b.d[1]) == "b.d.1"


# -- inheritance ------------------------------------------------------------------------------------------
def test_precedence_of_bases(write: Write):
    write(
        {
            "_base_/one": "a: 1\nb: 1\nc: 1\nm: {x: 1, y: [1, 2], z: 1}\n",
            "_base_/two": "b: 2\nc: 2\nm: {x: 2}\n",
            "sub/leaf": "_base_: [../_base_/one.yaml, ../_base_/two.yaml]\nc: 3\nm: {y: [3], z: null}\n",
        }
    )
    cfg = get_config("sub/leaf.yaml")
    assert cfg == {"a": 1, "b": 2, "c": 3, "m": {"x": 2, "y": [3], "z": None}} and "_base_" not in cfg
    origins = [str(cfg.origin_of(key)) for key in "abc"] + [str(cfg.m.origin_of(key)) for key in "xy"]
    leaf = "sub/leaf.yaml"
    assert origins == [
        "_base_/one.yaml:1",
        "_base_/two.yaml:1",
        f"{leaf}:2",
        "_base_/two.yaml:3",
        f"{leaf}:3",
    ]


def test_shipped_configs_are_found_from_anywhere(write: Write):
    for base in ("sot_small", "configs/sot/sot_small.yaml"):
        write({"deep/er/own": f"_base_: [configs/_base_/runtime.yaml, {base}]\nepochs: 3\n"})
        cfg = get_config("deep/er/own.yaml")
        assert (cfg.model.architecture.depth, cfg.epochs) == (14, 3)
    assert find_config("configs/sot/sot_small.yaml") == find_config("sot_small")
    # What lies beside the file wins.
    write({"configs/sot/sot_small": "model: mine\n", "own": "_base_: configs/sot/sot_small.yaml\n"})
    assert get_config("own.yaml") == {"model": "mine"}
    Path("sot_small").write_text("model: also mine\n")
    write(own="_base_: sot_small\n")
    assert get_config("own.yaml") == {"model": "also mine"}


def test_bases_that_are_nearly_those_shipped(write: Write):
    write({"far/own": "_base_: [sot_smal, ../_base_/sot.yaml, configs/../setup.py, configs/sot]\n"})
    lines = [line.split("_base_: ")[1] for line in fault_lines("far/own.yaml")]
    assert lines == [
        "'far/sot_smal' does not exist ('sot_smal' is relative to this file); did you mean 'sot_small'?",
        "'_base_/sot.yaml' does not exist ('../_base_/sot.yaml' is relative to this file); did you mean "
        "'configs/_base_/sot.yaml'?",
        "'far/setup.py' does not exist ('configs/../setup.py' is relative to this file)",
        "'far/configs/sot' does not exist ('configs/sot' is relative to this file)",
    ]


def test_a_changed_name_replaces_its_node(write: Write):
    base = "optimizer: {name: AdamW, beta1: 0.9, lr: 1}\nname: exp\nx: 1\n"
    write(base=base, other="_base_: base.yaml\noptimizer: {name: Momentum, lr: 2}\nname: mine\n")
    cfg = get_config("other.yaml")
    assert cfg.optimizer == {"name": "Momentum", "lr": 2}
    assert cfg.x == 1 and cfg.name == "mine"  # the top level is no node of a registry
    write(same="_base_: base.yaml\noptimizer: {name: AdamW, lr: 2}\n")
    assert get_config("same.yaml").optimizer == {"name": "AdamW", "beta1": 0.9, "lr": 2}


def test_sections_are_switched_off_and_on(write: Write):
    write(base="ema: {decay: 0.9}\nloss: 3\n", leaf="_base_: base.yaml\nema: null\nloss: {a: 1}\n")
    assert get_config("leaf.yaml") == {"ema": None, "loss": {"a": 1}}


def test_broken_bases(write: Write):
    write(a="_base_: b.yaml\n", b="x: 1\n_base_: [c.yaml]\n", c="_base_: ./a.yaml\n")
    ring = "a.yaml -> b.yaml -> c.yaml -> a.yaml"
    assert fault_lines("a.yaml") == [f"c.yaml:1: _base_: the bases form a cycle: {ring}"]
    leaf = "_base_:\n  - ../_base_/shedule.yaml\n  - 3\n  - ../_base_\n"
    write({"_base_/schedule": "a: 1\n", "sot/leaf": leaf})
    assert fault_lines("sot/leaf.yaml") == [
        "sot/leaf.yaml:2: _base_: '_base_/shedule.yaml' does not exist ('../_base_/shedule.yaml' is relative "
        "to this file); did you mean '../_base_/schedule.yaml'?",
        "sot/leaf.yaml:3: _base_: expected a file name or a list of them, got 3",
        "sot/leaf.yaml:4: _base_: '_base_' is a folder ('../_base_' is relative to this file)",
    ]
    write(nested="m:\n  _base_: a.yaml\n")
    assert fault_lines("nested.yaml") == [
        "nested.yaml:2: m._base_: '_base_' works only at the top level of a file"
    ]


# -- references -------------------------------------------------------------------------------------------
def test_references(write: Write, parse_config: Parse):
    write(
        x="a: ${b.0.c}\nb: [{c: 7}, '${a}']\nsame: ${b}\ntrain: {size: '${n}', set: {k: 1}}\n"
        "val: ${train}\nn: 5\nk: ${val.set.k}\nlit: a $${b} $$${c}\n"
    )
    cfg = get_config("x.yaml", ["n=6", "train.set.k=${a}"])
    assert cfg.a == 7 and cfg.b[1] == 7 and cfg.same == cfg.b and cfg.val == {"size": 6, "set": {"k": 7}}
    assert cfg.k == 7 and cfg.lit == "a ${b} $${c}"
    cfg.val.set.k = 0
    assert cfg.train.set.k == 7  # copies share nothing
    assert path_of(cfg.val) == "val" and parse_config(cfg.dump()) == cfg


def test_broken_references(write: Write):
    write(
        x="a: ${b}\nb: ${c.d}\nc:\n  d: ${a}\n  e: ${c}\n  f: x${a}\n  g: ${modle.name}\n  h: ${}\n"
        "model: {name: A}\nw: ${model.width}\ns: ${s.t}\n"
    )
    assert fault_lines("x.yaml") == [
        "x.yaml:1: a: the references form a cycle: a -> b -> c.d -> a",
        "x.yaml:5: c.e: '${c}' stands inside what it refers to",
        "x.yaml:6: c.f: 'x${a}': a reference must be the whole value, as in ${model.head.num_classes}; "
        "for a literal '${' write '$${'",
        "x.yaml:7: c.g: '${modle.name}' refers to nothing; did you mean 'model.name'?",
        "x.yaml:8: c.h: '${}' refers to nothing",
        "x.yaml:10: w: '${model.width}' refers to nothing; a default must be written out to be referred to",
        "x.yaml:11: s: the references form a cycle: s -> s",
    ]


# -- overrides --------------------------------------------------------------------------------------------
BASE = """\
epochs: 3
optimizer: {name: AdamW, beta1: 0.9}
head: {num_classes: 10, norm: null}
transforms:
  - {name: Crop, size: 224}
  - {name: Flip}
mean: [0.1, 0.2]
"""


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["epochs=5e-4"], "epochs", 5e-4),
        (["transforms.0.size=32"], "transforms.0.size", 32),
        (["mean.1=3"], "mean", [0.1, 3]),
        (["transforms.1={name: X}"], "transforms.1", {"name": "X"}),
        (["head.num_classes=a=b"], "head.num_classes", "a=b"),
        (["head.num_classes="], "head.num_classes", None),
        (["head=null"], "head", None),
        (["optimizer.beta2=1"], "optimizer", {"name": "AdamW", "beta1": 0.9, "beta2": 1}),
        (["+new.a.b=1"], "new", {"a": {"b": 1}}),
        (["+head.norm.k=1"], "head.norm", {"k": 1}),
        (["+mean.2=9"], "mean", [0.1, 0.2, 9]),
        (["optimizer.beta1=1", "optimizer.name=SGD"], "optimizer", {"name": "SGD", "beta1": 1}),
        (["optimizer.m=1", "optimizer.name=SGD"], "optimizer", {"name": "SGD", "m": 1}),
        (["optimizer.name=SGD"], "optimizer", {"name": "SGD"}),
        (["optimizer.name=AdamW"], "optimizer", {"name": "AdamW", "beta1": 0.9}),
        (["optimizer.x=1", "optimizer={name: A, y: 1}", "optimizer.name=B"], "optimizer", {"name": "B"}),
        (["optimizer.name=B", "optimizer.name=C", "optimizer.z=1"], "optimizer", {"name": "C", "z": 1}),
        (["epochs=1", "epochs=2"], "epochs", 2),
        (["+transforms.2={name: Z}", "transforms.2.k=1"], "transforms.2", {"name": "Z", "k": 1}),
        (["optimizer={beta1: 2}"], "optimizer", {"beta1": 2}),
    ],
)
def test_overrides(write: Write, overrides: list[str], path: str, value: object):
    write(x=BASE)
    got: object = get_config("x.yaml", overrides)
    for part in path.split("."):
        got = got[int(part)] if isinstance(got, list) else got[part]  # type: ignore[index]
    assert got == value and type(got) in (type(value), Config)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "Gloabl.epochs=1",
            "Gloabl.epochs: there is no such key; did you mean 'epochs'? ('+Gloabl.epochs=...' adds one)",
        ),
        ("epoch=1", "epoch: there is no such key; did you mean 'epochs'? ('+epoch=...' adds one)"),
        (
            "weights=x",
            "weights: there is no such key; the top level has epochs, optimizer, head, transforms, mean "
            "('+weights=...' adds one)",
        ),
        (
            "head.num_class=3",
            "head.num_class: there is no such key; did you mean 'head.num_classes'? "
            "('+head.num_class=...' adds one)",
        ),
        ("head.norm.k=1", "head.norm.k: 'head.norm' is null (x.yaml:3); '+head.norm.k=...' makes a section"),
        ("mean.2=1", "mean.2: 'mean' has 2 items; the last is 'mean.1'; '+mean.2=...' appends"),
        ("mean.9=1", "mean.9: 'mean' has 2 items; the last is 'mean.1'"),
        ("mean.-1=1", "mean.-1: 'mean' is a list of 2; its items are 'mean.0' and so on"),
        ("epochs.a=1", "epochs.a: 'epochs' is 3, which has nothing inside"),
        ("epochs", "the override 'epochs' is not of the form key=value"),
        ("=1", "the override '=1' has no proper dotted path before '='"),
        ("a..b=1", "the override 'a..b=1' has no proper dotted path before '='"),
        ("_base_=x", "_base_: '_base_' cannot be overridden; write a file that names the bases"),
        (
            "mean=[1, 2",
            "mean: the value '[1, 2': not valid YAML: a comma is missing, or the '[' is never closed",
        ),
        (
            "head={a: 1, a: 2}",
            "head.a: in the value '{a: 1, a: 2}': the key 'a' is given twice; keep one of the two",
        ),
        (
            "head=!!python/name:os.system",
            "head: in the value '!!python/name:os.system': the tag '!!python/name:os.system' is not "
            "supported; values are plain YAML",
        ),
    ],
)
def test_refused_overrides(write: Write, override: str, line: str):
    write(x=BASE)
    assert fault_lines("x.yaml", override) == [f"command line: {line}"]


def test_overriding_through_a_reference_says_where_to_go(write: Write):
    write(x="a: {b: 1}\nc: ${a}\n")
    assert fault_lines("x.yaml", "c.b=2") == [
        "command line: c.b: 'c' is a reference to 'a'; override 'a' or all of 'c'"
    ]


def test_values_are_never_evaluated(write: Write):
    write(x="a: 1\n")
    assert get_config("x.yaml", ["a=__import__('os').getcwd()"]).a == "__import__('os').getcwd()"


def test_overrides_must_be_a_list(write: Write):
    write(x="a: 1\n")
    with pytest.raises(TypeError, match="list of texts"):
        get_config("x.yaml", "a=1")
    assert get_config("x.yaml", None).a == 1


def test_import_needs_neither_paddle_nor_numpy():
    code = (
        "import sys, passl_sot.config.loader, passl_sot.config.registry; "
        "sys.exit(bool({'paddle', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
