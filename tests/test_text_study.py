"""The study of texts in docs/results: its data are what its page says; it is run at a tiny size."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from passl_sot import cli, create_model
from tests.data.text_files import write_vocab

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = RESULTS / "text" / "README.md"
TINY = [
    "model.architecture.vocab_size=242",
    "model.architecture.embed_dim=16",
    "model.architecture.depth=1",
    "model.architecture.num_heads=2",
    "model.head.num_heads=1",
    "model.head.wr_dim=2",
]


@pytest.fixture(scope="module")
def study(load_file):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RESULTS)
        yield load_file(RESULTS / "text_study.py")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Two genres of ten documents, and ten words of two senses, in the forms of the packages."""
    folder = tmp_path_factory.mktemp("sources")
    brown = folder / "brown"
    brown.mkdir()
    for letter, word in (("a", "jury"), ("n", "horse")):
        for number in range(10):
            lines = [f"\tThe/at {word}/nn ran/vbd ``/`` {number}/cd ''/'' ./." for _ in range(11)]
            (brown / f"c{letter}{number:02d}").write_text("\n\n".join(lines))
    (brown / "CONTENTS").write_text("no document")
    wordnet = folder / "wordnet"
    wordnet.mkdir()
    lines = ["  1 This software and database is being provided"]
    for number in range(20):
        word = "abcdefghij"[number % 10] * 3
        senses = f'sense {number} of it; "the {word} of {number}"; "no such word"'
        lines.append(f"{number:08d} 05 n 02 {word} 0 o{word} 0 000 | {senses}")
    (wordnet / "data.noun").write_text("\n".join(lines) + "\n")
    for part in ("verb", "adj", "adv"):
        (wordnet / f"data.{part}").write_text(lines[0] + "\n")
    return folder


def test_genres(study, sources):
    train, held_out = study.text_data.genres(sources / "brown")
    assert (len(train), len(held_out)) == (32, 8)  # of eleven sentences two passages
    assert {row["label"] for row in held_out} == {"reportage", "adventure"}
    numbers = [{re.search(r'" (\d) "', row["text"])[1] for row in part} for part in (train, held_out)]
    assert numbers == [{*"01235678"}, {*"49"}]  # whole documents
    assert train[0]["text"].count(" .") == 5


def test_senses(study, sources):
    parts = study.text_data.senses(sources / "wordnet")
    words = [{row["definition"].partition(":")[0] for row in part} for part in parts]
    assert not words[0] & words[1] and len(words[1]) == 2
    rows = [*parts[0], *parts[1]]
    assert len(rows) == 20
    for row in rows:
        number = re.search(r"the (\w+) of (\d+)", row["text"])
        right = row["definition"] == f"{number[1]}: sense {number[2]} of it"
        assert row["label"] == ("this sense" if right else "another sense")
        assert number[1] == row["definition"].partition(":")[0]


@pytest.fixture(scope="module")
def model(study, tmp_path_factory) -> Path:
    """A tiny BERT with a vocabulary, in Hugging Face's form."""
    folder = tmp_path_factory.mktemp("minilm")
    write_vocab(folder)
    weights = folder / "ours.pdparams"
    config = folder / "tiny.yaml"
    keys = "{vocab_size: 242, embed_dim: 16, depth: 1, num_heads: 2}"
    head = "{name: PoolerHead, num_classes: 2, in_channels: 16}"
    config.write_text(f"model:\n  architecture: {{name: BERT, {keys[1:]}\n  head: {head}\n")
    paddle.save(create_model(config).state_dict(), str(weights))
    target = folder / "model.safetensors"
    assert (
        cli.convert(["--config", str(config), "--src", str(weights), "--dst", str(target), "--to-torch"]) == 0
    )
    return folder


def test_the_page_shows_the_results(study):
    results = json.loads(PAGE.with_name("study.json").read_text())
    assert len(results["runs"]) == 18
    assert sys.modules["comparison"].tables(results) in PAGE.read_text()
    assert results["settings"]["texts"] == {name: [*sizes] for name, sizes in study.SIZES.items()}


@pytest.mark.slow
def test_the_script_at_a_tiny_size(study, sources, model, tmp_path, capfd):
    (command,) = re.findall(r"^python docs/results/text_study.py (.+)$", PAGE.read_text(), re.M)
    places = {"MINILM": model, "BROWN": sources / "brown", "WORDNET": sources / "wordnet"}
    words = [str(places.get(word, word)) for word in shlex.split(command)]
    out = tmp_path / "study"
    arguments = [*words, "--out", str(out), "--seeds", "7", "--train", "12", "--val", "4"]
    arguments += ["-o", "epochs=1", "lr_scheduler.warmup_epochs=0", *TINY]
    assert study.main(arguments) == 0
    said = capfd.readouterr().out
    assert "genres: 12 training and 4 held-out texts; TF-IDF" in said and "left new" in said
    results = json.loads((out / "study.json").read_text())
    names = [
        f"{data}/{head}/7" for data in ("genres", "senses") for head in ("ClassT", "WordT", "ClassT+WordT")
    ]
    assert list(results["runs"]) == names
    for name in names:
        rows = [json.loads(line) for line in (out / name / "text_study" / "metrics.jsonl").open()]
        (val,) = (row for row in rows if row["kind"] == "val_raw")
        assert results["runs"][name]["top1"] == [round(val["accuracy"], 4)]
    config = (out / "senses" / "WordT" / "7" / "text_study" / "config.yaml").read_text()
    assert "fusion_type: words" in config and "second: definition" in config
    assert "| genres | ClassT | " in (out / "study.md").read_text()
    with Image.open(out / "study.png") as picture:
        assert np.asarray(picture).std() > 0
    # The same command does nothing that is done.
    assert study.main(arguments) == 0
    assert "run 1 of 6" not in capfd.readouterr().out
    assert study.main([*words[:2], "--brown", str(model), *words[4:], "--out", str(out)]) == 2
    assert "holds no such texts" in capfd.readouterr().err
