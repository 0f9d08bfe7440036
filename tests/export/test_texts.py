"""Exported models of texts: the folder alone predicts, in float32 and in fewer bits."""

import re
import shutil

import numpy as np
import pytest
import yaml

from passl_sot import Predictor
from passl_sot.data.tokens import Tokenizer
from passl_sot.export.card import ExportError, read_card
from passl_sot.weights.checkpoint import read_header


def test_the_folder_has_a_tokenizer_of_its_own(trained_text):
    names = {path.name for path in trained_text.folder.iterdir()}
    assert names >= {"inference.onnx", "inference.xml", "inference.json", "tokenizer.json", "labels.txt"}
    card = read_card(trained_text.folder)
    assert card["preprocessing"] == read_header(trained_text.checkpoint)[1]["preprocessing"]
    text = (trained_text.folder / "tokenizer.json").read_text(encoding="utf-8")
    assert Tokenizer.from_text(text).max_length == 48
    # A card is for people too: the vocabulary isn't in it.
    assert (trained_text.folder / "inference.yml").stat().st_size < 8000
    assert "##" not in (trained_text.folder / "inference.yml").read_text(encoding="utf-8")


def test_other_programs_read_its_tokenizer(trained_text):
    from tokenizers import Tokenizer as Theirs

    theirs = Theirs.from_file(str(trained_text.folder / "tokenizer.json"))
    ours = Tokenizer.from_text(read_card(trained_text.folder)["preprocessing"]["tokenizer"])
    for text in trained_text.texts:
        theirs.no_padding()
        assert theirs.encode(text).ids == ours.encode([text])[0].ids.tolist()


def test_without_its_tokenizer_or_with_another_it_is_no_export(trained_text, tmp_path):
    folder = shutil.copytree(trained_text.folder, tmp_path / "copy")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ExportError, match=r"tokenizer\.json is not the file that was exported"):
        Predictor(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"has no tokenizer\.json, without which it reads no texts"):
        Predictor(folder)


def test_paddlex_is_told_that_it_cannot(trained_text):
    text = (trained_text.folder / "inference.yml").read_text(encoding="utf-8")
    assert text.startswith(
        "# No PreProcess, so that PaddleX refuses this model: it classifies images only.\n"
    )
    assert "PreProcess" not in yaml.safe_load(text)


@pytest.mark.parametrize("word", ["--img-size=48", "--dynamic-size"])
def test_options_for_images_are_refused(trained_text, invoke, tmp_path, word):
    result = invoke("export", "--weights", trained_text.checkpoint, "--out", tmp_path / "out", word)
    assert (result.returncode, "BERT takes no images, whose size could be" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_fewer_bits_are_measured_on_texts(trained_text, tmp_path, invoke, precision):
    words = ["--weights", trained_text.checkpoint, "--out", tmp_path / "out", "--precision", precision]
    words += ["--formats", "onnx,openvino", "--calibrate", trained_text.config.parent / "val.csv"]
    result = invoke("export", *words)
    if "on this processor" in result.stderr:
        pytest.skip("this processor computes no bf16")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(
        rf"openvino in {precision}: logits differ .* becomes .*\(of 9 sentences\)", result.stdout
    )
    wanted = np.array([row.probabilities for row in Predictor(trained_text.checkpoint)(trained_text.texts)])
    predictor = Predictor(tmp_path / "out", engine="openvino")
    found = np.array([row.probabilities for row in predictor(trained_text.texts)])
    assert predictor.precision == precision
    assert 0 < np.abs(found - wanted).max() < 0.3
