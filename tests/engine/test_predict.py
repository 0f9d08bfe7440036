"""The predictor: what it takes, what it refuses, and what it writes."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from passl_sot import Predictor
from passl_sot.data.errors import DataError
from passl_sot.data.given import collect_images
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.predict import write_predictions
from passl_sot.weights.checkpoint import CheckpointError, write_checkpoint


@pytest.fixture
def checkpoint(experiment):
    trainer = Trainer(load_config(experiment, ["epochs=1"]), experiment.parent / "run", World())
    trainer.fit()
    return trainer.folder.path / "best.safetensors"


def test_a_path_an_array_and_a_picture_are_the_same_image(checkpoint, experiment):
    predictor = Predictor(checkpoint)
    path = experiment.parent / "val" / "猫" / "1.png"
    picture = Image.open(path)
    results = predictor([str(path), path, np.asarray(picture), picture])
    assert predictor(path)[0] == results[0]
    for result in results:
        assert result.names == results[0].names
        assert result.probabilities == pytest.approx(results[0].probabilities, abs=1e-6)
        assert sum(result.probabilities) == pytest.approx(1, abs=1e-5)  # all three classes are shown
        assert result.probabilities == sorted(result.probabilities, reverse=True)
    assert predictor.class_names == ["a b", "c", "猫"]
    assert Predictor(checkpoint, prefer="raw")(path)[0].probabilities != results[0].probabilities
    assert len(Predictor(checkpoint, top_k=1)(path)[0].names) == 1


def test_an_image_in_any_form_is_the_same_image(checkpoint, experiment):
    predictor = Predictor(checkpoint)
    path = experiment.parent / "val" / "猫" / "1.png"
    array = np.asarray(Image.open(path))
    forms = {
        "bytes": path.read_bytes(),
        "memoryview": memoryview(path.read_bytes()),
        "channels first": array.transpose(2, 0, 1),
        "floats to 255": array.astype("float64"),
        "floats to 1": array.astype("float32") / 255,
        "floats to 1, channels first": (array / 255).transpose(2, 0, 1),
        "int64": array.astype("int64"),
        "tensor": paddle.to_tensor(array),
        "RGBA picture": Image.open(path).convert("RGBA"),
    }
    wanted = predictor(path)[0]
    for form, image in forms.items():
        (result,) = predictor(image)
        assert (result.names, result.probabilities) == (wanted.names, wanted.probabilities), form
    assert [r.probabilities for r in predictor(list(forms.values()))] == [wanted.probabilities] * len(forms)
    # Several, in an array of four axes and from a generator.
    assert [r.names for r in predictor(np.stack([array] * 2))] == [wanted.names] * 2
    assert [r.names for r in predictor(image for image in (array, path))] == [wanted.names] * 2
    # Gray, and a picture that its EXIF turns, as their files are read.
    gray = Image.open(path).convert("L")
    assert predictor(gray) == predictor(np.stack([gray] * 3))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(turned, "JPEG", exif=exif, quality=95)
    assert predictor(Image.open(turned)) == predictor(turned.getvalue())


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((8, 8, 3), bool), ValueError, "an array of bool"),
        (
            np.full((8, 8, 3), -1.5),
            ValueError,
            r"from -1.5 to -1.5 is no image: give pixel values, in \[0, 1\]",
        ),
        (np.full((8, 8, 3), np.nan), ValueError, "from nan to nan"),
        (np.full((8, 8, 3), 300), ValueError, "from 300 to 300"),
        (Image.new("F", (8, 8)), ValueError, "floating-point image"),
        (7, TypeError, "a int is no image"),
        ([{}], TypeError, "a dict is no image: give a path, the bytes of a file, a PIL image or an array"),
        (None, TypeError, "a NoneType is no image"),
    ],
)
def test_what_is_no_image_is_an_error(checkpoint, image, error, words):
    with pytest.raises(error, match=words):
        Predictor(checkpoint)(image)


def test_bytes_that_are_no_image_are_reported(checkpoint):
    (result,) = Predictor(checkpoint)(b"<html>")
    assert "not an image but an HTML" in result.error and not result.names


def test_the_batch_size_does_not_matter(checkpoint, experiment):
    files = collect_images([str(experiment.parent / "val")])
    one, many = (Predictor(checkpoint, batch_size=size)(files) for size in (1, 4))
    for first, second in zip(one, many, strict=True):
        assert first.path == second.path
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)


def test_unreadable_files_keep_their_place_and_are_reported(checkpoint, experiment, tmp_path, invoke):
    folder = experiment.parent / "val" / "c"
    (folder / "0.png").write_bytes(b"<html>")
    (folder / "10.png").write_bytes((folder / "1.png").read_bytes())
    table, objects = tmp_path / "r.csv", tmp_path / "r.json"
    done = invoke("predict", "--weights", checkpoint, "--out", table, "--out", objects, folder)
    assert done.returncode == 0
    assert "1 of 4 images could not be read" in done.stderr
    assert "Traceback" not in done.stderr
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"].rsplit("/", 1)[1] for row in rows] == ["0.png", "1.png", "2.png", "10.png"]
    assert rows[0]["error"]
    assert not rows[0]["name"]
    assert rows[1]["name"] in ("a b", "c", "猫")
    assert rows[1]["class2"]
    assert [bool(entry["error"]) for entry in json.loads(objects.read_text())] == [True, False, False, False]
    done = invoke("predict", "--weights", checkpoint, folder / "0.png")
    assert done.returncode == 1


def test_pipes_devices_and_rings_of_links_are_reported_too(
    checkpoint, experiment, tmp_path, invoke, monkeypatch, write_odd_files
):
    folder = experiment.parent / "val" / "c"
    write_odd_files(folder)
    odd = ("loop", "device", "pipe", "sparse")
    (folder / "list.txt").write_text("".join(f"{name}.png\n" for name in (*odd, "0")))
    for argument, rows in ((folder, 7), (folder / "list.txt", 5)):
        done = invoke("predict", "--weights", checkpoint, argument, "--out", tmp_path / "r.json")
        assert done.returncode == 0 and f"4 of {rows} images could not be read" in done.stderr
        errors = {
            Path(row["path"]).stem: row["error"] for row in json.loads((tmp_path / "r.json").read_text())
        }
        assert [errors[name].split(": ")[1].split(",")[0] for name in odd] == [
            "a link that leads back to itself",
            "is a device",
            "is a pipe (FIFO)",
            "has 60",
        ]
        assert errors["0"] == ""
    done = invoke("predict", "--weights", checkpoint, folder / "loop.png", folder / "pipe.png")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    monkeypatch.setenv("PASSL_SOT_MAX_FILE_MB", "many")
    done = invoke("predict", "--weights", checkpoint, folder / "0.png")
    assert done.returncode == 2
    assert done.stderr == (
        "error: environment variable PASSL_SOT_MAX_FILE_MB: must be a number of megabytes, got 'many'\n"
    )


def test_ways_to_name_images(experiment, tmp_path):
    val = experiment.parent / "val"
    listed = tmp_path / "val" / "list.txt"
    listed.write_text("c/2.png\n\na b/0.png\n", encoding="utf-8-sig")
    assert collect_images([str(listed)]) == [str(val / "c" / "2.png"), str(val / "a b" / "0.png")]
    assert collect_images([str(val / "*" / "1.png")]) == [str(val / n / "1.png") for n in ("a b", "c", "猫")]
    assert len(collect_images([str(val), str(val / "c" / "0.png")])) == 10
    for wrong in ("", "nothing.jpg", str(val / "*.bmp")):
        with pytest.raises(FileNotFoundError, match="no such file, folder or pattern"):
            collect_images([wrong])


def test_no_image_is_one_line_and_status_2(checkpoint, tmp_path, invoke):
    (tmp_path / "empty").mkdir()
    for name, said in {
        "nope.jpg": "no such file, folder or pattern",
        "empty": "no image in this folder",
    }.items():
        done = invoke("predict", "--weights", checkpoint, tmp_path / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {tmp_path / name}: {said}: check the path\n"


def test_lists_in_other_encodings_and_with_labels(experiment, tmp_path):
    val = tmp_path / "val"
    (val / "c 7").write_bytes(b"a file whose name ends as a label would")
    text = "猫/0.png\t2\r\n猫/1.png 2\r\n\r\na b/0.png\t0\r\na b/2.png 0\r\nc/1.png\r\nc 7\r\nnot there 3\r\n"
    wanted = ["猫/0.png", "猫/1.png", "a b/0.png", "a b/2.png", "c/1.png", "c 7", "not there 3"]
    for encoding in ("utf-8", "utf-8-sig", "gbk", "gb18030"):
        (val / "list.txt").write_bytes(text.encode(encoding))
        assert collect_images([str(val / "list.txt")]) == [str(val / name) for name in wanted]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists no images"),
        (b"\r\n  \n", "lists no images"),
        ("café.png".encode("latin-1"), "neither UTF-8 nor GBK"),
        ("a.png\n".encode("utf-16"), "neither UTF-8 nor GBK"),
        ("a.png\n".encode("utf-16-le"), "neither UTF-8 nor GBK"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt .*{message}|{message}"):
        collect_images([str(path)])


def test_a_folder_a_pattern_and_a_list_stand_for_their_images(checkpoint, experiment):
    predictor, val = Predictor(checkpoint), experiment.parent / "val"
    (val / "list.txt").write_text("c/0.png\nc/2.png\n")
    (val / "c" / "a[1].png").write_bytes((val / "c" / "1.png").read_bytes())
    assert [r.path for r in predictor(val / "猫")] == [str(val / "猫" / f"{i}.png") for i in range(3)]
    assert [r.path for r in predictor(str(val / "*" / "1.png"))] == [
        str(val / name / "1.png") for name in ("a b", "c", "猫")
    ]
    assert len(predictor(val / "list.txt")) == 2
    assert [r.path for r in predictor(val / "c" / "a[1].png")] == [str(val / "c" / "a[1].png")]
    assert predictor(val / "nothing.png")[0].error
    (val / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in this folder"):
        predictor(val / "empty")


def test_foreign_weights_and_formats_are_refused(checkpoint, tmp_path, invoke):
    bare = tmp_path / "bare.safetensors"
    write_checkpoint(bare, {"model.a": np.ones(2, np.float32)}, {"best_by": "ema"})
    with pytest.raises(CheckpointError, match="no ema weights; it holds raw"):
        Predictor(bare)
    done = invoke("predict", "--weights", checkpoint, tmp_path / "val", "--out", tmp_path / "r.xlsx")
    assert done.returncode == 2
    assert "name it .csv, .json or .tsv" in done.stderr
    two = ("--out", tmp_path / "r.csv", tmp_path / "r.json")
    assert (
        "r.json is no image; each file to write has its own --out"
        in invoke("predict", "--weights", checkpoint, tmp_path / "val", *two).stderr
    )
    done = invoke("predict", "--weights", checkpoint, "--text", "a cat")
    assert done.returncode == 2 and "is for images: --text and --columns are for texts" in done.stderr
    done = invoke("predict", "--weights", checkpoint, "--out", tmp_path / "r.tsv")
    assert done.returncode == 2 and "a .tsv is GLUE's form, for predictions of texts" in done.stderr
    assert not (tmp_path / "r.tsv").exists()
    wrong = np.zeros((4, 4), np.uint8)
    assert "expected uint8 [H, W, 3]" in Predictor(checkpoint)(wrong)[0].error


def test_nothing_half_written(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_predictions([object()], path)
    assert path.read_text() == "old"
