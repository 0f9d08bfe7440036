"""Exports under the real PaddleX and the real PaddleClas: the rows of our Predictor."""

import json
import shutil

import numpy as np
import pytest
import yaml

from passl_sot import Predictor
from ppcls_tools.make_client_envs import main as make_client_envs
from ppcls_tools.paddleclas_folder import lay_out
from ppcls_tools.paddleclas_folder import main as lay_out_main
from tests.clients.conftest import CLASSES, OTHER_ROUNDING, SAME_ROUNDING, needs

ENGINES = ("paddle_static", "onnxruntime")


def assert_rows(rows, wanted, tolerance=5.5e-6):
    """The same classes, names and order; scores to the five digits that PaddleX and PaddleClas round to."""
    assert len(rows) == len(wanted)
    for row, prediction in zip(rows, wanted, strict=True):
        scores = np.array(row["scores"], float)
        np.testing.assert_allclose(scores, prediction.probabilities, rtol=0, atol=tolerance, err_msg=str(row))
        # Classes of scores that round to the same digits may change places.
        order = [int(number) for number in row["class_ids"]]
        if np.all(np.diff(np.array(prediction.probabilities)) < -2e-5):
            assert order == prediction.classes, prediction.path
        assert row["label_names"] == [CLASSES[number] for number in order]


@pytest.fixture(scope="module")
def wanted(exports, pictures, turned):
    """Our rows, by filter and rounding."""
    files = {"same": pictures(SAME_ROUNDING), "other": pictures(OTHER_ROUNDING), "turned": [turned]}
    found = {}
    for kind, (_, checkpoint) in exports.items():
        predictor = Predictor(checkpoint)
        found |= {(kind, name): (paths, predictor(paths)) for name, paths in files.items()}
    return found


@pytest.fixture(scope="module")
def by_paddlex(exports, wanted, client, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paddlex")
    jobs, places = [], []
    for kind, (exported, _) in exports.items():
        known = folder / kind
        shutil.copytree(exported, known)
        card = yaml.safe_load((known / "inference.yml").read_text(encoding="utf-8"))
        card["Global"]["model_name"] = "ResNet18"
        (known / "inference.yml").write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
        for engine in ENGINES:
            for name in ("same", "other", "turned"):
                job = {"engine": engine, "files": wanted[kind, name][0], "several": False}
                jobs.append(job | {"folder": exported, "known": ""})
                places.append((kind, engine, name, "registered"))
                # Unchanged, PaddleX rounds otherwise where there is a crop, and turns what lies on its side.
                if name == "same" or (kind, name) == ("bilinear", "other"):
                    jobs.append(job | {"folder": known, "known": "ResNet18"})
                    places.append((kind, engine, name, "known"))
    # A model for several labels by its card: all classes above a probability.
    several = folder / "several"
    shutil.copytree(exports["bilinear"][0], several)
    card = yaml.safe_load((several / "inference.yml").read_text(encoding="utf-8"))
    card["Global"]["model_name"] = "Several"
    card["PostProcess"] = {"MultiLabelThreshOutput": {"threshold": 0.18, "label_list": CLASSES}}
    (several / "inference.yml").write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    files = wanted["bilinear", "same"][0]
    jobs.append({"engine": "onnxruntime", "files": files, "several": True, "folder": several, "known": ""})
    places.append("several")
    answer = client("paddlex", "run_paddlex.py", jobs, folder / "run")
    return dict(zip(places, answer["rows"], strict=True)), answer["complaints"]


@pytest.mark.slow
@needs("paddlex")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_paddlex(by_paddlex, wanted, kind, engine):
    rows, complaints = by_paddlex
    for name in ("same", "other", "turned"):  # registered: every size, and EXIF as the model was trained
        assert_rows(rows[kind, engine, name, "registered"], wanted[kind, name][1])
    # Unchanged, under a name that it knows: sizes that it rounds as we do; straight to the size, all.
    assert_rows(rows[kind, engine, "same", "known"], wanted[kind, "same"][1])
    if kind == "bilinear":
        assert_rows(rows[kind, engine, "other", "known"], wanted[kind, "other"][1])
    assert len(complaints) == 1 and "PaddleX has a model ResNet50 of its own" in complaints[0]


@pytest.mark.slow
@needs("paddlex")
def test_paddlex_with_several_labels(by_paddlex, wanted):
    rows = by_paddlex[0]["several"]
    for row, prediction in zip(rows, wanted["bilinear", "same"][1], strict=True):
        pairs = zip(prediction.names, prediction.probabilities, strict=True)
        said = [name for name, probability in pairs if probability > 0.18]
        assert row["label_names"] == said
        np.testing.assert_allclose(
            np.array(row["scores"], float), prediction.probabilities[: len(said)], atol=5.5e-6
        )


@pytest.mark.slow
@needs("paddleclas")
def test_paddleclas(exports, wanted, client, tmp_path):
    jobs, places = [], []
    for kind, (exported, _) in exports.items():
        options = lay_out(exported, tmp_path / kind)
        assert (tmp_path / kind / "inference.pdmodel").stat().st_size == 0
        for engine in ("paddle", "onnxruntime"):
            for name in ("same", "other"):
                if (kind, name) != ("bicubic", "other"):  # which PaddleClas rounds otherwise
                    jobs.append({"engine": engine, "files": wanted[kind, name][0], "options": options})
                    places.append((kind, name))
    answer = client("paddleclas", "run_paddleclas.py", jobs, tmp_path / "run")
    for place, rows in zip(places, answer["rows"], strict=True):
        assert_rows(rows, wanted[place][1])


def test_environments_are_named(capsys):
    assert make_client_envs(["torch"]) == 2
    assert "unknown: torch; choose among paddlex, paddleclas" in capsys.readouterr().err


def test_layout_faults(exports, tmp_path, capsys):
    exported = exports["bicubic"][0]
    target = tmp_path / "new"
    assert lay_out_main([str(exported), str(target)]) == 0
    said = capsys.readouterr().out
    assert "enable_memory_optim" in said and "CropImage.size" in said
    options = said.partition("options = ")[2].partition("\n")[0]
    assert json.loads(json.dumps(eval(options)))["inference_model_dir"] == str(target)
    assert lay_out_main([str(exported), str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert lay_out_main([str(tmp_path), str(tmp_path / "b")]) == 2
    assert "is no exported model" in capsys.readouterr().err
    card = yaml.safe_load((exported / "inference.yml").read_text(encoding="utf-8"))
    for change, words in (
        ({"PreProcess": None}, "can't prepare"),
        ({"PostProcess": {"MultiLabelThreshOutput": {}}}, "several labels"),
    ):
        other = tmp_path / words
        other.mkdir()
        changed = {key: value for key, value in (card | change).items() if value is not None}
        (other / "inference.yml").write_text(yaml.safe_dump(changed), encoding="utf-8")
        assert lay_out_main([str(other), str(tmp_path / "b")]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "b").exists()
