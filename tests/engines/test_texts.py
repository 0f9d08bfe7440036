"""Models of texts: the same rows from every engine, whatever the lengths, and speeds in sentences."""

import json

import numpy as np
import pytest

from passl_sot import Predictor
from passl_sot.cli import benchmark
from passl_sot.engines import ENGINES, EngineError, open_engine
from passl_sot.engines.choose import choose_engine


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_rows_from_every_engine(trained_text, engine):
    texts = [*trained_text.texts, "", ("the cat sat", "on a mat"), "a " * 100]
    wanted = Predictor(trained_text.checkpoint)(texts)
    assert np.std([row.probabilities[0] for row in wanted]) > 0.01
    assert not any(row.error for row in wanted)
    for size in (1, 4, 12):  # in the second case not in the order of the texts
        predictor = Predictor(trained_text.folder, engine=engine, batch_size=size)
        assert predictor.engine.name == engine
        for row, right in zip(predictor(texts), wanted, strict=True):
            assert (row.text, row.text_pair, row.names) == (right.text, right.text_pair, right.names)
            assert row.probabilities == pytest.approx(right.probabilities, abs=2e-5)


def test_one_text_is_one_and_a_list_is_several(trained_text):
    predictor = Predictor(trained_text.folder, engine="onnxruntime", top_k=2)
    (one,) = predictor("the cat sat on the mat")
    assert one.text == "the cat sat on the mat" and len(one.names) == 2
    assert [row.text_pair for row in predictor([("the cat", "sat"), "the dog"])] == ["sat", ""]


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_of_another_shape(trained_text, engine):
    opened = open_engine(engine, trained_text.folder)
    ids = np.ones((2, 5), np.int64)
    for wrong in ((ids,), (ids[0], ids[0], ids[0])):
        with pytest.raises(EngineError, match=r"the model takes \[\?, \?\], \[\?, \?\], \[\?, \?\], not \["):
            opened(*wrong)


def test_auto_measures_texts_of_a_length_that_the_model_takes(trained_text, home):
    """It has 48 positions, and by default texts of 128 tokens are measured."""
    name = Predictor(trained_text.folder, engine="auto", batch_size=2).engine.name
    (file,) = (home / "engines").glob("*.json")
    found = json.loads(file.read_text())
    assert (found["engine"], found["refused"]) == (name, {})
    assert choose_engine(trained_text.folder, batches=(1, 2), length=48) == name
    assert len(list((home / "engines").glob("*.json"))) == 1


def test_speeds_are_in_sentences(trained_text, capfd):
    words = ["-c", str(trained_text.config), "--batch", "2", "--repeats", "1", "--json"]
    for mode in ("infer", "train"):
        assert benchmark([*words, "--mode", mode]) == 0
        result = json.loads(capfd.readouterr().out)
        assert result["sentences_per_s"] == pytest.approx(2 / result["seconds"])
        assert "images_per_s" not in result
    assert benchmark([*words, "--engine", "eager,onnxruntime"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert [row["engine"] for row in rows] == ["eager", "onnxruntime"]
    assert all(row["sentences_per_s"]["2"] > 0 for row in rows)
    assert rows[1]["difference"] < 1e-4
    words = ["--weights", str(trained_text.folder), "--engine", "openvino", "--batch", "2", "--repeats", "1"]
    assert benchmark(words) == 0
    assert "| sentences/s at 2 |" in capfd.readouterr().out
