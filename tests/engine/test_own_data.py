"""`--data DIR --pretrained W`: fine-tuning on a user's own JPEGs through the real command line."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from passl_sot import cli, create_model
from passl_sot.data import DataError, ImageFolder
from passl_sot.data.datasets.folders import find_splits
from passl_sot.engine.run_dir import read_metrics
from passl_sot.weights.checkpoint import read_checkpoint

CLASSES = ("cat 1", "cat 10", "cat 2", "狗")
NORMALIZE = [{"name": "Resize", "size": [16, 16]}, {"name": "Normalize"}]


def write_photos(folder: Path, per_class: int, classes=CLASSES, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 60, (50, 64, 3)) + 60 * (np.arange(3) == number % 3) + 15 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"IMG_{i:03d}.JPG", quality=90)


@pytest.fixture
def weights(experiment, tmp_path) -> Path:
    """Weights of the experiment's model for other classes and another size of images."""
    path = tmp_path / "weights.pdparams"
    paddle.save(create_model(str(experiment), num_classes=7, img_size=48).state_dict(), str(path))
    return path


def test_the_command(experiment, weights, tmp_path, invoke):
    """Train and val folders; the head is new, the size fitted, the batch no larger than the set."""
    photos = tmp_path / "my photos"
    write_photos(photos / "train", 3)
    write_photos(photos / "val", 2, seed=1)
    experiment.write_text(experiment.read_text().replace("batch_size: 8}", "batch_size: 64}", 1))
    command = ("-c", experiment, "--data", photos, "--pretrained", weights)
    done = invoke("train", *command, "-o", "epochs=2")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert f"data: 4 classes in {photos}/train: cat 1, cat 2, cat 10, 狗" in said
    assert f"data: validation in {photos}/val" in said
    assert (
        "plan: 8 images per update (recipe: 64), 2 updates an epoch, none of the 12 images left out" in said
    )
    assert "plan: 2 epochs (as you set), 0 of them warm-up, 4 updates" in said
    assert f"{weights}: all keys accounted for" in said
    assert re.search(r"left new\s+head\.\S*fc\.weight", said)
    assert "12 training and 8 validation images, 4 classes" in said
    folder = tmp_path / "output" / "run"
    best = read_checkpoint(folder / "best.safetensors")
    assert best.meta["class_names"] == ["cat 1", "cat 2", "cat 10", "狗"]
    assert best.meta["config"]["model"]["head"]["num_classes"] == 4
    assert best.meta["preprocessing"]["apply_exif"] is True
    recorded = json.loads((folder / "run.json").read_text())["overrides"]
    assert "model.head.num_classes=4" in recorded
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["images"] for row in rows if row["kind"] == "val_raw"] == [8, 8]
    # The same command goes on with the run instead of beginning anew; the weights are not read again.
    weights.unlink()
    again = invoke("train", *command, "-o", "epochs=3", "--resume", "auto", "--resume-override", "epochs")
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stdout and "left new" not in again.stdout
    predicted = invoke("predict", photos / "val", "--weights", folder / "best")
    assert predicted.returncode == 0 and "IMG_000.JPG" in predicted.stdout


def test_weights_are_where_training_starts(experiment, weights, tmp_path, capfd):
    """With the body frozen it is still that of the weights afterwards."""
    write_photos(tmp_path / "photos", 5)
    more = ["-o", "epochs=1", "parameters.freeze=[backbone.*]", "ema=null", "checkpoint.best_by=raw"]
    command = ["-c", str(experiment), "--data", str(tmp_path / "photos"), "--pretrained", str(weights)]
    assert cli.train([*command, *more, "model.architecture.img_size=48"]) == 2
    assert "images become 32x32, and model.architecture.img_size is 48x48" in capfd.readouterr().err
    assert cli.train([*command, *more]) == 0
    after = read_checkpoint(tmp_path / "output" / "run" / "last.safetensors").part("model")
    before = paddle.load(str(weights))
    for name, value in before.items():
        if name.startswith("backbone.") and list(value.shape) == list(after[name].shape):
            np.testing.assert_array_equal(after[name], value.numpy(), err_msg=name)


def test_one_folder_is_split(experiment, tmp_path, capfd):
    photos = tmp_path / "photos"
    write_photos(photos, 10)
    command = ["-c", str(experiment), "--data", str(photos), "--dry-run"]
    assert cli.train(command) == 0
    said = capfd.readouterr().out
    assert "no validation folder: some of each class are held out" in said
    assert "32 training, 8 validation images, 4 classes" in said
    # `train` alone is one folder of classes as well.
    (tmp_path / "outer").mkdir()
    photos.rename(tmp_path / "outer" / "train")
    assert cli.train(["-c", str(experiment), "--data", str(tmp_path / "outer"), "--dry-run"]) == 0
    assert "32 training, 8 validation images, 4 classes" in capfd.readouterr().out


def parts(root: Path, **more) -> list[set[str]]:
    sets = [ImageFolder(dataroot=str(root), transforms=NORMALIZE, part=p, **more) for p in ("train", "val")]
    assert sets[0].class_names == sets[1].class_names
    return [{s.path(i) for i in range(len(s))} for s in sets]


def test_the_rule_of_the_split(tmp_path):
    write_photos(tmp_path, 10)
    train, val = parts(tmp_path)
    assert not train & val and len(train) == 32 and len(val) == 8
    assert {Path(path).parent.name for path in val} == set(CLASSES)
    assert parts(tmp_path) == [train, val]  # every time
    more_train, more_val = parts(tmp_path, val_share=0.5)
    assert len(more_val) == 20 and val < more_val and more_train < train
    # An image more moves at most one other per class.
    Image.new("RGB", (30, 30)).save(tmp_path / "狗" / "new.jpg")
    assert len(parts(tmp_path)[1] ^ val) <= 2
    for share, held in ((0.99, 9), (0.01, 1)):
        _, val = parts(tmp_path, val_share=share)
        assert len([path for path in val if "/cat 2/" in path]) == held


@pytest.mark.parametrize("names", [("Train", "VALID"), ("training", "test"), ("train", "validation")])
def test_names_of_splits(tmp_path, names):
    for name in names:
        write_photos(tmp_path / name, 1)
    found = find_splits(str(tmp_path))
    assert (Path(found.train).name, Path(found.val).name) == names and not found.held_out


def test_a_class_may_be_called_train(tmp_path):
    write_photos(tmp_path, 2, classes=("train", "car"))
    assert find_splits(str(tmp_path)).class_names == ["car", "train"]


def refused(experiment, data, capfd, *more) -> str:
    assert cli.train(["-c", str(experiment), "--data", str(data), *more]) == 2
    error = capfd.readouterr().err
    assert error.count("error:") == 1 and "Traceback" not in error
    return error


def test_what_is_wrong_with_a_folder(experiment, tmp_path, capfd):
    assert f"{tmp_path}/nothing doesn't exist" in refused(experiment, tmp_path / "nothing", capfd)
    (tmp_path / "empty").mkdir()
    assert "is empty: no class folders in it" in refused(experiment, tmp_path / "empty", capfd)
    write_photos(tmp_path / "one", 3, classes=("cat",))
    one = refused(experiment, tmp_path / "one", capfd)
    assert (
        "holds one class folder, 'cat', and a classifier needs two or more" in one
        and "Expected layout" in one
    )
    for name in ("a", "b"):
        (tmp_path / "bare" / name).mkdir(parents=True)
        (tmp_path / "bare" / name / "notes.txt").write_text("x")
    bare = refused(experiment, tmp_path / "bare", capfd)
    assert "holds 2 class folders (a, b) but no images (looked for .jpg" in bare
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "flat" / "x.jpg")
    assert "holds 1 images (such as x.jpg) but no class folders" in refused(
        experiment, tmp_path / "flat", capfd
    )


def test_classes_of_train_and_val_differ(experiment, tmp_path, capfd):
    write_photos(tmp_path / "photos" / "train", 3, classes=("cat", "dog", "horse"))
    write_photos(tmp_path / "photos" / "val", 2, classes=("cat", "dogs", "horse"))
    for more in ([], ["--dry-run"]):
        error = refused(experiment, tmp_path / "photos", capfd, *more)
        assert "class 'dogs' is in val" in error and "(nearest: 'dog')" in error
        assert "class 'dog' is in train" in error


def test_a_class_of_one_image_can_not_be_split(experiment, tmp_path, capfd):
    write_photos(tmp_path / "photos", 3)
    write_photos(tmp_path / "photos", 1, classes=("rare",))
    error = refused(experiment, tmp_path / "photos", capfd)
    assert "class 'rare' holds 1 item(s), and two are the least" in error


def test_the_document_is_checked_once(experiment, tmp_path, caplog):
    write_photos(tmp_path / "photos", 3)
    with caplog.at_level(logging.DEBUG, logger="passl_sot.config"):
        assert cli.train(["-c", str(experiment), "--data", str(tmp_path / "photos"), "--dry-run"]) == 0
    checks = [record for record in caplog.records if "checking a whole document" in record.getMessage()]
    assert len(checks) == 1


def test_weights_that_can_not_be_used(experiment, weights, tmp_path, capfd):
    write_photos(tmp_path / "photos", 3)
    for more in ([], ["--dry-run"]):
        other = ["-o", "model.architecture.embed_dim=32", "--pretrained", str(weights), *more]
        assert "doesn't fit the model" in refused(experiment, tmp_path / "photos", capfd, *other)
        gone = ["--pretrained", str(tmp_path / "gone.pdparams"), *more]
        assert "no weights file" in refused(experiment, tmp_path / "photos", capfd, *gone)


def test_configs_of_lists_are_refused(experiment, tmp_path, capfd):
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "list.txt").write_text("x.jpg 0\n")
    keys = f"name: ListFile, dataroot: x, list_file: {tmp_path}/list.txt, transforms: []"
    lists = f"dataloader.val.dataset={{{keys}}}"
    error = refused(experiment, tmp_path / "photos", capfd, "-o", lists)
    assert "dataloader.val.dataset.name: --data is for configs that read folders (ImageFolder)" in error


def test_starts_exclude_each_other(experiment, capsys):
    for pair in (["--init-from", "x", "--pretrained", "x"], ["--init-from", "x", "--resume", "auto"]):
        with pytest.raises(SystemExit) as caught:
            cli.train(["-c", str(experiment), *pair])
        assert caught.value.code == 2 and "not allowed with argument" in capsys.readouterr().err


def test_a_batch_that_was_asked_for_stays(experiment, tmp_path, capfd):
    write_photos(tmp_path / "photos", 3)
    asked = ["-o", "dataloader.train.sampler.batch_size=64"]
    error = refused(experiment, tmp_path / "photos", capfd, *asked)
    assert "has 8 images, fewer than one batch of 64" in error


def test_a_part_needs_images(tmp_path):
    write_photos(tmp_path, 1)
    with pytest.raises(DataError, match="class 'cat 1' holds 1 item"):
        ImageFolder(dataroot=str(tmp_path), transforms=NORMALIZE, part="val")
