"""The floors, and the rules of the house that a machine can hold."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "passl_sot"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "tools").glob("*.py")), *sorted((ROOT / "ppcls_tools").glob("*.py"))]
OUTSIDE = {"tools", "ppcls_tools", "configs", "tests", "docs"}
# Of one kind of task: the engine knows arrays, tasks and steps.
FORBIDDEN_IN_ENGINE = re.compile(r"image|label|top1|multi_hot|class_names|num_classes|pixel", re.IGNORECASE)
CHINESE = re.compile("[\u3000-\u9fff\uff00-\uffef]")


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


floors = load(ROOT / "docs" / "floors.py")
FLOOR_OF = {room: number for number, rooms in enumerate(floors.FLOORS) for room in rooms}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(tree: ast.Module) -> set[str]:
    """Identifiers: what is named, read, passed by keyword or taken as an argument."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def breaches(path: Path, here: str) -> list[str]:
    found = []
    for name in floors.imports_of(path):
        package, _, rest = name.partition(".")
        if package in OUTSIDE:
            found.append(f"{path} imports {name}")
        if package != "passl_sot":
            continue
        there = rest.partition(".")[0] or "__init__"
        if there != here and FLOOR_OF[there] >= FLOOR_OF[here]:
            found.append(f"{path} (floor {FLOOR_OF[here]}) imports {name} (floor {FLOOR_OF[there]})")
    return found


def test_every_room_imports_from_lower_floors_alone():
    assert not [line for path in MODULES for line in breaches(path, floors.room_of(path))]


def test_a_breach_is_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from passl_sot.engine.trainer import Trainer\nimport tools.train\n")
    assert len(breaches(bad, "nn")) == 2


def test_the_drawing_of_the_floors_is_that_of_the_imports():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert page == floors.page_with(floors.drawing()), "run: python docs/floors.py"


def test_what_stands_on_the_ground_needs_little():
    allowed = {"config": {"yaml"}, "imageio": {"numpy", "PIL", "numba", "simplejpeg"}}
    for path in MODULES:
        room = floors.room_of(path)
        if room in allowed:
            packages = {name.partition(".")[0] for name in floors.imports_of(path)}
            assert packages <= {*sys.stdlib_module_names, "passl_sot", *allowed[room]}, relative(path)


def test_the_engine_names_nothing_of_one_kind_of_task():
    families = {p.stem for p in (PACKAGE / "modeling" / "backbones").glob("*.py")} - {"__init__", "base"}
    for path in sorted((PACKAGE / "engine").rglob("*.py")):
        names = names_in(tree_of(path))
        assert not {name for name in names if FORBIDDEN_IN_ENGINE.search(name)}, relative(path)
        assert not {name for name in names if name.lower() in families}, relative(path)


def test_chinese_stands_in_one_table():
    module = PACKAGE / "config" / "chinese.py"  # the commas of a list
    texts = {path: path.read_text(encoding="utf-8") for path in MODULES}
    assert not [relative(path) for path, text in texts.items() if path != module and CHINESE.search(text)]
    used = {key for text in texts.values() for key in re.findall(r'zh\(\s*"(\w+)"', text)}
    assert used == set(load(module).table()["lines"])


def test_no_port_is_opened_but_to_serve():
    for path in MODULES:
        if floors.room_of(path) == "serve":
            continue
        assert not re.search(r"\.listen\(|create_server|\.bind\(", path.read_text(encoding="utf-8")), path


def test_house_rules():
    for path in [*MODULES, *SCRIPTS]:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        place = relative(path)
        assert ast.get_docstring(tree), f"{place}: every module says what it is"
        assert len(text.splitlines()) <= 400, place
        assert not re.search(r"sys\.path(\[|\.|\s*\+?=)", text), f"{place} changes where modules come from"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{place} imports relatively"
                assert all(alias.name != "*" for alias in node.names), f"{place} has a star import"
            elif isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{place}:{node.lineno}: bare except"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{place}:{node.lineno}"
            elif isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{place}: {node.name} is long"
                defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
                assert not any(isinstance(d, ast.Dict | ast.Set | ast.List) for d in defaults), (
                    f"{place}: {node.name} has a mutable default"
                )


def test_tools_are_short():
    for path in (ROOT / "tools").glob("*.py"):
        assert path.name == "start.py" or len(path.read_text().splitlines()) <= 80, path


def test_leaf_configs_are_short_and_say_how_to_run_them():
    for path in sorted((ROOT / "configs").glob("[!_]*/[!_]*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 32, path
        if path.parent.name == "dense":  # whose `meta` says where a recipe is from
            continue
        assert lines[0].startswith("# ")
        assert "python" in lines[1]
        assert "top-1" in lines[2] or (path.parent.name == "text" and "Expected" in lines[2])
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["_base_"]
