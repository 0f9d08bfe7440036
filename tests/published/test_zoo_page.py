"""docs/models.md and docs/models.json are those that docs/zoo.py makes."""

import json
from pathlib import Path

import pytest

from passl_sot.config import list_models

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def zoo(load_file):
    return load_file(ROOT / "docs" / "zoo.py")


def test_the_pages_are_up_to_date(zoo):
    for path, text in zoo.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run: python docs/zoo.py"


def test_all_that_is_known_is_on_them():
    data = json.loads((ROOT / "docs" / "models.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    named = [entry["name"] for entry in (*data["models"], *data["text_models"])]
    assert sorted(named) == list_models()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for entry in [*data["models"], *data["more_weights"]]:
        row = rows.pop(entry["name"])
        weights = entry["weights"]
        if weights is None:
            assert "none released; nearest: " in row or "made by the demo" in row
            continue
        for key in ("file", "url", "drive", "size", "sha256", "license"):
            assert weights[key] is None or f"{weights[key]}" in row, (entry["name"], key)
        assert entry["code_license"] in row and f" {weights['top1'] or '–'}" in row
    for entry in data["text_models"]:
        row = rows[f"{entry['name'].rpartition('_')[0]}_…"]
        assert (
            f" {entry['published_score']:.2f} |" in row
            and f" | `{entry['weights']}` | {entry['license']} |" in row
        )
    assert all(name.endswith("_…") for name in rows)


def test_cells(zoo):
    weights = {"file": "a.pth", "url": None, "drive": "https://d/x", "size": None, "sha256": "a" * 64}
    assert zoo.file_cells({**weights, "access": "by hand"}) == [
        "[a.pth](https://d/x), by hand",
        "not stated",
        "a" * 64,
    ]
    both = {**weights, "url": "https://u/a.pth", "size": 12, "sha256": "0123", "access": "by name"}
    assert zoo.file_cells(both) == ["[a.pth](https://u/a.pth) ([by hand](https://d/x))", "12", "0123…"]
