"""`passl-sot visualize`: from checkpoints and files to pictures, a page and a table."""

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.vis.conftest import CLASSES


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def page_of(made, tmp_path_factory):
    """Of the parts of a head, on images of all classes, with one file that is none."""
    from passl_sot import cli

    out = tmp_path_factory.mktemp("out")
    broken = made.folder / "broken.jpg"
    broken.write_bytes(b"<html>")
    words = ["--weights", made.fused, made.folder / "val", broken, "--out", out, "--parts", "--steps", 2]
    assert cli.visualize([str(word) for word in words]) == 0
    return out


def test_parts_of_a_head_side_by_side(made, page_of):
    pictures = sorted(page_of.glob("*.png"))
    assert len(pictures) == 10 and pictures[-1].name == "010_2.png"
    assert all(cv2.imread(str(path)).shape[1] > 1000 for path in pictures)
    rows = rows_of(page_of / "faithfulness.csv")
    assert [row["view"] for row in rows[:3]] == ["ClassT", "WordT", "ClassT+WordT"] and len(rows) == 30
    # Labels are the folders, of which maps are; the gray one has a label too.
    assert {(Path(row["item"]).parent.name, row["name"]) for row in rows} == {
        (name, name) for name in CLASSES
    }
    report = json.loads((page_of / "faithfulness.json").read_text())
    whole = [row for row in report["maps"] if row["view"] == "ClassT+WordT"]
    mean = report["means"][2]
    assert mean["insertion"] == pytest.approx(np.mean([row["insertion"] for row in whole]))
    # The area below the mean curve is the mean area.
    assert mean["insertion"] == pytest.approx(np.dot(mean["curves"]["insertion"], [0.25, 0.5, 0.25]))
    for row in whole:
        wanted = row["probability"] if row["predicted"] == row["class"] else 0.0
        assert row["probability_of_class"] == pytest.approx(wanted, abs=1e-5) or wanted == 0.0
    better = np.mean([row["deletion"] < row["random_deletion"] for row in whole])
    assert mean["deletion_better"] == pytest.approx(better) and mean["maps"] == 10


@pytest.mark.slow
def test_the_page_in_a_browser(page_of, browser, requested):
    browser.set_window_size(1200, 900)
    requested()
    browser.get((page_of / "index.html").as_uri())
    figures = browser.find_elements("css selector", "figure")
    assert len(figures) == 41
    # A chart below each map, as wide.
    assert [len(figure.find_elements("tag name", "img")) for figure in figures] == [1, *[1, 2, 2, 2] * 10]
    script = "return [...document.querySelectorAll('figure')].slice(1).map((f) => f.offsetWidth)"
    assert len(set(browser.execute_script(script))) == 1
    del figures[0]
    assert browser.execute_script("return [...document.images].every((i) => i.naturalWidth >= 100)")
    captions = [figure.find_element("tag name", "figcaption").text for figure in figures]
    assert captions[0] == "as the model sees it"
    titles = [title.text for title in browser.find_elements("css selector", "figure > b")]
    assert titles == ["image", "ClassT", "WordT", "ClassT+WordT"] * 10
    marks = {
        row["item"]: row["label"] == row["predicted"]
        for row in rows_of(page_of / "faithfulness.csv")
        if row["view"] == "ClassT"
    }
    assert [caption[0] == "✓" for caption in captions[1::4]] == list(marks.values())
    assert all("random" in caption and " %" in caption for caption in captions[1::4])
    assert "猫" in browser.find_element("tag name", "main").text
    unreadable = browser.find_elements("css selector", "section")[-1].text
    assert unreadable.startswith("Unreadable") and "broken.jpg: not an image" in unreadable
    assert [address for address in requested() if not address.startswith("data:")] == [browser.current_url]
    # Four pictures side by side; on a telephone below each other, without scrolling sideways.
    tops = browser.execute_script("return [...document.querySelectorAll('figure')].map((f) => f.offsetTop)")
    assert len(set(tops[1:5])) == 1
    for width in (1200, 500):
        browser.set_window_size(width, 900)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_models_side_by_side_and_a_class_by_name(made, tmp_path, invoke):
    done = invoke(
        "visualize",
        "--weights",
        made.fused,
        made.folder / "plain" / "best",
        made.folder / "val" / "c",
        "--out",
        tmp_path / "o",
        "--class",
        "猫",
        "--steps",
        1,
        "--limit",
        2,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 4 images, spread evenly" in done.stdout
    rows = rows_of(tmp_path / "o" / "faithfulness.csv")
    assert [(row["view"], row["name"]) for row in rows] == 2 * [("fused/best", "猫"), ("plain/best", "猫")]
    assert [Path(row["item"]).name for row in rows[::2]] == ["0.png", "2.png"]


def test_the_most_probable_classes_without_figures_of_trust(made, tmp_path, invoke):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.txt").write_text("stays")
    command = ("visualize", "--weights", made.fused, made.folder / "val" / "c" / "gray.png", "--out")
    done = invoke(*command, tmp_path / "o", "--top-k", 9, "--steps", 0, "--method", "rollout")
    assert done.returncode == 0, done.stderr
    assert "o also holds what was not drawn now: mine.txt" in done.stdout
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "001_gray.png",
        "index.html",
        "mine.txt",
    ]
    page = (tmp_path / "o" / "index.html").read_text()
    # One image and a map of each class, side by side.
    titles = [unescape(text) for text in re.findall('<figure><b dir="auto">(.*?)</b>', page)]
    assert titles[0] == "image"
    assert set(titles[1:]) == {
        'What speaks for "a b"',
        'What speaks for "c" (the label)',
        'What speaks for "猫"',
    }
    assert len(titles) == 4
    assert "By rollout." in page and "How far" not in page


def test_words_of_texts(made, tmp_path, invoke):
    text = made.folder / "texts.csv"
    text.write_text("sentence\nthe cat sat on 它\nبيت on the mat\n", encoding="utf-8")
    done = invoke("visualize", "--weights", made.texts, text, "--out", tmp_path, "--parts", "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [
        "001_the_cat_sat_on_它.png",
        "002_بيت_on_the_mat.png",
    ]
    page = (tmp_path / "index.html").read_text()
    assert [page.count(f"<b>{name}</b> ") for name in ("ClassT", "WordT", "ClassT+WordT")] == [2, 2, 2]
    assert page.count("<figure>") == 7
    for word in ("cat", "它", "بيت"):
        assert page.count(f'">{word}</span>') == 3
    assert "[CLS]" not in page and "CLS" not in page


@pytest.mark.parametrize(
    ("weights", "more", "words"),
    [
        (["fused"], ["--class", "猫猫"], "best has no class '猫猫'; did you mean '猫'?"),
        (["fused"], ["--class", "3"], "best has 3 classes: give a number from 0 to 2"),
        (
            ["unnamed"],
            ["--class", "cat"],
            "unnamed doesn't know what its classes are called, so there is no 'cat'",
        ),
        (
            ["synonyms"],
            ["--class", "Crane"],
            "'Crane' may be 'crane' (1), 'crane, machine' (2): give the number",
        ),
        (["synonyms"], ["--class", "tinca tinka"], "no class 'tinca tinka'; did you mean 'Tinca tinca'?"),
        (
            ["fused"],
            ["--method", "gradcam"],
            "(SoT) has no method 'gradcam'; did you mean 'grad_cam'?; it has: ",
        ),
        (["plain"], ["--parts"], "best has no parts to show: its LinearHead doesn't add logits"),
        (["fused", "other"], [], "other were trained on different classes"),
        (["fused", "texts"], [], "texts for sentences: maps of both"),
        (["fused"], ["--text", "a cat"], "PATH or --text"),
        (["fused"], ["--top-k", "2", "--class", "c"], "--class and --top-k: not allowed together"),
        (["fused"], ["-o", "epochs=1"], "-o changes a config: name one with -c"),
        (["folder"], [], "is a folder: gradients need a checkpoint"),
    ],
)
def test_one_clear_error_each(made, tmp_path, invoke, weights, more, words):
    paths = [getattr(made, name) for name in weights]
    done = invoke("visualize", "--weights", *paths, "--out", tmp_path, made.folder / "val" / "c", *more)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("error:") == 1
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_where_nothing_can_be_read(made, tmp_path, invoke):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    done = invoke("visualize", "--weights", made.fused, broken, "--out", tmp_path / "o")
    assert done.returncode == 2 and "broken.jpg: not an image" in done.stderr
    assert sorted(tmp_path.rglob("*")) == [broken, tmp_path / "o"]


def test_names_of_classes_are_found(made):
    from passl_sot.tasks.base import load_trained, task_of
    from passl_sot.vis.subject import Subject

    model, meta = load_trained(made.synonyms)
    subject = Subject("m", model, task_of(meta), meta)
    asked = ("tench, Tinca tinca", "TENCH", "n2", "crane", "crane, machine", "2", "machine")
    assert [subject.find_class(name) for name in asked] == [0, 0, 1, 1, 2, 2, 2]
    # A folder may be called by a class's id.
    assert subject.label_of("x/n1/a.png") == 0 and subject.label_of("x/y/a.png") is None


def test_bare_weights_with_their_config(made, tmp_path, invoke):
    from safetensors.numpy import load_file, save_file

    arrays = {name.removeprefix("model."): array for name, array in load_file(made.fused).items()}
    save_file(arrays, tmp_path / "bare.safetensors")
    image = made.folder / "val" / "猫" / "1.png"
    command = ("visualize", "--weights", tmp_path / "bare.safetensors", "-c", made.folder / "run.yaml", image)
    done = invoke(*command, "--out", tmp_path / "o", "--steps", 0)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "o")
    done = invoke(*command[:3], image, "--out", tmp_path / "o")
    assert done.returncode == 2 and "bare weights" in done.stderr
