"""The class names that travel with published weights: predictions in words, folders by id or number."""

import json

import pytest

from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.judging.conftest import IDS, NAMES

CARDS = """
families:
  Colors:
    page: https://example.org/colors
    drive: https://example.org/drive
    classes: imagenet-1k
    files: {{colors: {{file: colors.pdparams, config: {config}}}}}
"""


@pytest.fixture
def published(colors, own_home, tmp_path, monkeypatch):
    """Weights that go by a name, fetched by hand."""
    folder = own_home / "colors"
    folder.mkdir(parents=True)
    (folder / "colors.pdparams").write_bytes(colors.bare.read_bytes())
    (tmp_path / "cards.yaml").write_text(CARDS.format(config=colors.config))
    monkeypatch.setenv("PASSL_SOT_CARDS", str(tmp_path / "cards.yaml"))


def test_words(published, pictures, invoke, tmp_path):
    pictures(tmp_path / "x.png", 281)
    done = invoke("predict", "--weights", "colors", tmp_path / "x.png")
    assert "x.png  tabby, tabby cat  " in done.stdout, done.stderr
    meta = read_checkpoint(tmp_path / "home" / "colors" / "colors.safetensors").meta
    assert (meta["class_names"], meta["class_ids"], meta["classes_unnamed"]) == (NAMES, IDS, False)
    for name, folders in (("ids", IDS), ("numbers", list(map(str, range(1000)))), ("words", NAMES)):
        for label, shown in ((2, 2), (10, 10), (281, 3)):
            pictures(tmp_path / name / folders[label] / "x.png", shown)
        out = tmp_path / f"{name}.json"
        done = invoke("eval", "--weights", "colors", "--data", tmp_path / name, "--out", out)
        assert done.returncode == 0, done.stderr
        report = json.loads(out.read_text())
        assert report["top1"] == pytest.approx(200 / 3) and report["per_class"][281]["name"] == NAMES[281]
    for label in (2, 10):
        pictures(tmp_path / "own" / f"kind {label}" / "x.png", label)
    done = invoke("eval", "--weights", "colors", "--data", tmp_path / "own")
    assert done.returncode == 2 and "holds class 'kind 10', which is not among the 1000 known" in done.stderr
    # A file that was converted before names were known is converted anew.
    note = tmp_path / "home" / "colors" / "colors.json"
    note.write_text(note.read_text().replace('"classes": "imagenet-1k",', ""))
    invoke("predict", "--weights", "colors", tmp_path / "x.png")
    assert json.loads(note.read_text())["classes"] == "imagenet-1k"


@pytest.mark.parametrize(
    ("ids", "message"), [(IDS[1:], "999 entries"), ([1] * 1000, "something else than names")]
)
def test_damaged_ids(colors, tmp_path, ids, message):
    from passl_sot.tasks.base import load_trained

    saved = read_checkpoint(colors.checkpoint)
    write_checkpoint(tmp_path / "x.safetensors", saved.tensors, {**saved.meta, "class_ids": ids})
    with pytest.raises(CheckpointError, match=f"damaged: class_ids in its header .*{message}"):
        load_trained(tmp_path / "x.safetensors")
