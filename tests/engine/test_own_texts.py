"""`--data PATH` of models of texts: tables and folders of a user's own, through the real command line."""

import csv
import json
import re
from pathlib import Path

import pytest

from passl_sot import cli
from passl_sot.weights.checkpoint import read_checkpoint

NAMES = ("bad", "fine", "good")


def rows(count: int) -> list[dict[str, str]]:
    """Sentences whose class follows from one word; labels in turn."""
    return [{"review": f"the cat was {NAMES[i % 3]}, day {i}", "class": NAMES[i % 3]} for i in range(count)]


def write(path: Path, content: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, list(content[0]), dialect="excel-tab" if path.suffix == ".tsv" else "excel"
        )
        writer.writeheader()
        writer.writerows(content)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory, write_texts) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


TOLD = ["dataloader.train.dataset.text=review", "dataloader.val.dataset.text=review"]


@pytest.fixture
def dry(config, capfd):
    """What `train --dry-run --data PATH` says."""

    def run(path: Path, *overrides: str, status: int = 0) -> str:
        more = ["-o", *overrides] if overrides else []
        assert cli.train(["-c", str(config), "--data", str(path), "--dry-run", *more]) == status
        said = capfd.readouterr()
        return said.out + said.err

    return run


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_one_table_is_split(dry, tmp_path, ending):
    said = dry(write(tmp_path / f"reviews.{ending}", rows(30)), *TOLD)
    assert f"data: 3 classes in {tmp_path}/reviews.{ending}: bad, fine, good" in said
    assert "no validation table: some of each class are held out" in said
    assert "24 training, 6 validation sentences, 3 classes" in said
    assert re.search(r"plan: \d+ texts per update", said)


@pytest.mark.parametrize("names", [("train.csv", "val.csv"), ("Train.tsv", "dev.jsonl")])
def test_tables_of_both_splits(dry, tmp_path, names):
    for name, count in zip(names, (12, 6), strict=True):
        write(tmp_path / name, rows(count))
    said = dry(tmp_path, *TOLD)
    assert f"data: validation in {tmp_path}/{names[1]}" in said
    assert "12 training, 6 validation sentences, 3 classes" in said


def test_folders_of_text_files(dry, tmp_path):
    for i, row in enumerate(rows(30)):
        path = tmp_path / row["class"] / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(row["review"])
    said = dry(tmp_path)
    assert "no validation folder: some of each class are held out" in said
    assert "24 training, 6 validation sentences, 3 classes" in said


def test_usual_names_of_columns_and_pairs(dry, tmp_path):
    pairs = [{"premise": row["review"], "hypothesis": "a day", "label": row["class"]} for row in rows(12)]
    assert "9 training, 3 validation sentences" in dry(write(tmp_path / "pairs.csv", pairs))


def test_numbers_to_predict(dry, tmp_path):
    content = [{"sentence": row["review"], "score": i / 7} for i, row in enumerate(rows(20))]
    said = dry(
        write(tmp_path / "scores.csv", content), "task.score=pearson", "loss={name: MeanSquaredErrorLoss}"
    )
    assert f"data: texts with a number each in {tmp_path}/scores.csv" in said
    assert "16 training, 4 validation sentences with a number each" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            [{"a": "the cat", "label": "x"}],
            "no column of a usual name, such as 'text' or 'sentence', but 'a'",
        ),
        (
            [{"text": "the cat", "kind": "x"}],
            "no column of labels of a usual name, such as 'label', but 'text'",
        ),
        ([{"text": "the cat", "label": "x"}] * 3, "has one label in its column 'label', 'x'"),
    ],
)
def test_tables_that_do_not_say_enough(dry, tmp_path, content, words):
    assert words in dry(write(tmp_path / "a.csv", content), status=2)


def test_train_and_evaluate(config, tmp_path, capfd):
    """The classes are the table's, and a checkpoint takes other tables, where a class may be missing."""
    table = write(tmp_path / "reviews.csv", rows(30))
    more = ["epochs=1", f"output_dir={tmp_path}/output", *TOLD]
    assert cli.train(["-c", str(config), "--data", str(table), "-o", *more]) == 0
    folder = tmp_path / "output" / "texts"
    best = read_checkpoint(folder / "best.safetensors")
    assert best.meta["class_names"] == list(NAMES)
    capfd.readouterr()
    assert cli.evaluate(["--weights", str(folder / "best"), "--data", str(table)]) == 0
    assert "of each class the share that training holds out is taken" in capfd.readouterr().out
    other = write(tmp_path / "other.csv", rows(30)[1::3])
    every = "dataloader.val.dataset.part=all"
    assert cli.evaluate(["--weights", str(folder / "best"), "--data", str(other), "-o", every]) == 0
    assert "sentences 10" in capfd.readouterr().out
    assert cli.predict(["--weights", str(folder / "best"), "--text", "the cat was good " * 50]) == 0
    assert re.search(r"^the cat was good .{,90} \.\.\.  \w+  \d+\.\d+ %$", capfd.readouterr().out, re.M)
