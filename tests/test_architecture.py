"""The layer rule and the rules of the house that a machine can hold."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "passl_sot"
# The floors of docs/design.md, from below; places on one floor don't import each other.
FLOORS = (
    {"config", "imageio", "version"},
    {"utils"},
    {"launch", "metrics", "nn"},
    {"data", "modeling", "optim", "weights"},
    {"tasks"},
    {"engine", "interop"},
    {"bench", "predict", "zoo"},
    {"model"},
    {"cli"},
    {"__init__"},
)
LAYERS = {place: floor for floor, places in enumerate(FLOORS) for place in places}
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "tools").glob("*.py")), *sorted((ROOT / "ppcls_tools").glob("*.py"))]
OUTSIDE = {"tools", "ppcls_tools", "configs", "tests"}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert all(alias.name != "*" for alias in node.names), f"{path} has a star import"
            names.append(node.module)
    return names


def breaches(path: Path, here: str) -> list[str]:
    found = []
    for name in imports(path):
        parts = name.split(".")
        if parts[0] in OUTSIDE:
            found.append(f"{path.name} imports {name}")
        if parts[0] != "passl_sot":
            continue
        there = parts[1] if len(parts) > 1 else "__init__"
        if there != here and LAYERS[there] >= LAYERS[here]:
            found.append(f"{path} (layer {LAYERS[here]}) imports {name} (layer {LAYERS[there]})")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    assert not breaches(path, place(path))


def test_a_breach_is_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from passl_sot.engine.trainer import Trainer\nimport tools.train\n")
    assert len(breaches(bad, "nn")) == 2


def test_the_configuration_language_needs_only_the_standard_library_and_yaml():
    import sys

    for path in MODULES:
        if place(path) == "config":
            roots = {name.split(".")[0] for name in imports(path)}
            assert roots <= {*sys.stdlib_module_names, "passl_sot", "yaml"}, path


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_house_rules(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "every module says what it is"
    assert len(text.splitlines()) <= 500
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{node.name} is long"
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
            assert not any(isinstance(d, ast.Dict | ast.Set) for d in defaults), (
                f"{node.name}: mutable default"
            )
    assert not re.search(r"sys\.path(\[|\.|\s*\+?=)", text), "changes where modules come from"
    if path.parent.name == "tools" and path.name != "start.py":
        assert len(text.splitlines()) <= 80


def test_the_engine_knows_no_family():
    families = {p.stem for p in (PACKAGE / "modeling" / "backbones").glob("*.py")} - {"__init__", "base"}
    pattern = re.compile("|".join(rf"\b{name}\b" for name in families), re.IGNORECASE)
    for path in (PACKAGE / "engine").glob("*.py"):
        # "passl_sot" is one word to the pattern; a family's own name alone is what is looked for.
        assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_leaf_configs_are_short_and_say_how_to_run_them():
    for path in sorted((ROOT / "configs").glob("[!_]*/*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 30, path
        assert lines[0].startswith("# ")
        assert "python" in lines[1]
        assert "top-1" in lines[2]
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["_base_"]
