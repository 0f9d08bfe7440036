"""The tree with origins, flat lines and differences."""

from pathlib import Path

import pytest

from passl_sot.config import diff, format_tree, get_config


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("model: {name: A, depth: 3}\nmean: [0.5, 1]\n", encoding="utf-8")
    Path("x.yaml").write_text(
        "_base_: base.yaml\nmodel: {depth: 4}\nsteps:\n"
        "  - {name: Crop,\n     size: 5e-4}\n  - []\nempty: {}\n",
        encoding="utf-8",
    )
    cfg = get_config("x.yaml", ["model.lit='a: b'"])
    cfg.late = None
    return cfg


def test_tree(cfg, parse_config):
    assert format_tree(cfg) == (
        "model:\n"
        "  name: A         # base.yaml:1\n"
        "  depth: 4        # x.yaml:2\n"
        "  lit: 'a: b'     # command line\n"
        "mean: [0.5, 1]    # base.yaml:2\n"
        "steps:\n"
        "  - name: Crop    # x.yaml:4\n"
        "    size: 0.0005  # x.yaml:5\n"
        "  - []\n"
        "empty: {}         # x.yaml:7\n"
        "late: null"
    )
    assert parse_config(format_tree(cfg)) == cfg
    assert format_tree({}) == "{}"


def test_diff(cfg, parse_config):
    other = parse_config(
        "model: {name: A, depth: 5}\nsteps: [{name: Crop, size: 5e-4}, []]\nmean: [0.5, 1]\nb: 2\n"
    )
    assert diff(cfg, other) == (
        "~ model.depth: 4 -> 5\n- model.lit: 'a: b'\n- empty: {}\n- late: null\n+ b: 2"
    )
    assert diff(cfg, cfg) == ""
    assert diff({"a": True}, {"a": 1}) == "~ a: true -> 1"
