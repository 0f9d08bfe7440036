"""`passl-sot visualize --show tokens|matrices`: from checkpoints and files to pictures and a page."""

import re

import cv2
import pytest


def test_tokens_of_two_models(made, tmp_path, invoke):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    images = (made.folder / "val" / "c" / "gray.png", broken, made.folder / "val" / "a b" / "0.png")
    words = ("visualize", "--weights", made.fused, made.plain, *images, "--out", tmp_path / "o")
    done = invoke(*words, "--show", "tokens")
    assert done.returncode == 0, done.stderr
    assert "unreadable: " in done.stdout and "2 of 3 drawn" in done.stdout
    names = [
        f"{item}_{model}_best_tokens.png" for item in ("001_gray", "003_0") for model in ("fused", "plain")
    ]
    assert sorted(path.name for path in (tmp_path / "o").glob("*.png")) == names
    page = (tmp_path / "o" / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4 and page.count("fused/best: How the image") == 4  # alternatives too
    assert re.findall(r"<h2[^>]*>(\d\. )[^<]*(gray|0)\.png<", page) == [("1. ", "gray"), ("3. ", "0")]
    assert page.count("three principal components") == 1
    assert cv2.imread(str(tmp_path / "o" / names[0])).shape[1] > 900


def test_matrices_of_a_folder_and_of_texts(made, tmp_path, invoke):
    images = [made.folder / "val" / "a b" / f"{n}.png" for n in range(2)]
    words = ("--out", tmp_path / "o", "--show", "matrices")
    done = invoke("visualize", "--weights", made.fused, *images, *words)
    assert done.returncode == 0, done.stderr
    names = [path.name for path in sorted((tmp_path / "o").glob("*.png"))]
    assert names == [*(f"{n + 1:03}_{n}_matrices.png" for n in range(2)), "mean_matrices.png"]
    page = (tmp_path / "o" / "index.html").read_text(encoding="utf-8")
    assert page.index(">Mean of 2 images<") < page.index(">1. ")
    captions = re.findall("<figcaption.*?</figcaption>", page, re.DOTALL)
    assert ["From one item to another" in caption for caption in captions] == [True, False, False]
    assert all("a matrix is scaled as a whole" in caption for caption in captions)
    done = invoke("visualize", "--weights", made.texts, "--text", "the cat: a?", *words)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "o" / "index.html").read_text(encoding="utf-8")
    assert ">1. the cat: a?<" in page and "SvPN, power 0.5, 1 singular value, 2 iterations" in page
    assert (tmp_path / "o" / "001_the_cat_a__matrices.png").is_file()


@pytest.mark.parametrize(
    ("weights", "more", "words"),
    [
        ("texts", ["--show", "tokens", "--text", "a"], "texts takes texts: only images have grids of tokens"),
        ("plain", ["--show", "matrices", "val"], "LinearHead with representation none, has no second-order"),
        ("fused", ["--show", "matrices", "val", "--parts"], "--parts goes with --show maps"),
        ("fused", ["--show", "tokens", "val", "--steps", "2"], "--steps goes with --show maps"),
    ],
)
def test_one_clear_error_each(made, tmp_path, invoke, weights, more, words):
    more = [str(made.folder / "val") if word == "val" else word for word in more]
    done = invoke("visualize", "--weights", getattr(made, weights), "--out", tmp_path, *more)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("error:") == 1
    assert not list(tmp_path.iterdir())
