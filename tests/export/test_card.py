"""The card: what PaddleX reads of it, and what of a folder is refused."""

import datetime
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from passl_sot.export.card import ExportError, read_card, write_card
from passl_sot.export.source import read_labels
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained.folder, tmp_path / "copy")


def test_it_names_preprocessing_and_classes_as_paddlex_reads_them(trained):
    content = yaml.safe_load((trained.folder / "inference.yml").read_text(encoding="utf-8"))
    assert content["Global"] == {"model_name": "small_run"}
    resize, crop, normalize, order = content["PreProcess"]["transform_ops"]
    assert resize == {"ResizeImage": {"resize_short": 36, "backend": "pil", "interpolation": "BICUBIC"}}
    assert crop == {"CropImage": {"size": [32, 32]}}
    assert normalize["NormalizeImage"]["mean"] == [0.485, 0.456, 0.406]
    assert order == {"ToCHWImage": None}
    assert content["PostProcess"] == {"Topk": {"topk": 3, "label_list": ["a b", "c", "猫"]}}
    assert (trained.folder / "labels.txt").read_text(encoding="utf-8") == "0 a b\n1 c\n2 猫\n"


EXACT = [{"name": "Resize", "size": [24, 40], "interpolation": "bilinear"}, {"name": "Normalize"}]
CROPPED = [{"name": "Resize", "size": 40}, {"name": "CenterCrop", "size": [24, 40]}, {"name": "Normalize"}]


@pytest.mark.parametrize(
    ("preprocessing", "several", "reason", "first"),
    [
        ({"transforms": EXACT}, False, "", {"size": [40, 24], "backend": "pil", "interpolation": "BILINEAR"}),
        ({"transforms": EXACT}, True, "", {"size": [40, 24], "backend": "pil", "interpolation": "BILINEAR"}),
        ({"transforms": CROPPED}, True, "it crops no images of models for several labels", None),
        ({"transforms": EXACT, "channels": 1}, False, "this one has 1 channel", None),
        ({"transforms": EXACT[1:]}, False, "these images are prepared by Normalize", None),
    ],
)
def test_what_paddlex_cannot_do_is_left_out_with_the_reason(
    preprocessing, several, reason, first, meta, tmp_path
):
    meta["preprocessing"] = preprocessing
    meta["config"]["dataloader"]["train"]["dataset"]["multi_label"] = several
    found = write_card(tmp_path, meta, {}, "any")
    assert reason in found
    text = (tmp_path / "inference.yml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if reason:
        assert "PreProcess" not in content
        assert found in text.partition("\n")[0]
        return
    assert content["PreProcess"]["transform_ops"][0] == {"ResizeImage": first}
    assert ("MultiLabelThreshOutput" in content["PostProcess"]) is several
    assert read_card(tmp_path)["preprocessing"] == preprocessing


def change(folder, **entries):
    path = folder / "inference.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["passl_sot"] |= entries
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_any_names_come_back(meta, tmp_path):
    names = ["\x85a\u2028b\u2029", "c: d\n- *e\r\n#=", "\ufeff\x00\x1b\t<<"]
    write_card(tmp_path, {**meta, "class_names": names}, {}, "any")
    assert read_card(tmp_path)["class_names"] == names
    assert len((tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()) == 3


def test_names_do_not_steer_the_terminal(trained, tmp_path, invoke):
    saved = read_checkpoint(trained.checkpoint)
    steering = {**saved.meta, "class_names": [f"\x1b[2J\r\n{number}" for number in range(3)]}
    write_checkpoint(tmp_path / "other.safetensors", saved.tensors, steering)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    done = invoke("predict", "--weights", tmp_path / "other.safetensors", tmp_path / "a.png")
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert re.search(r"a\.png  \?\[2J\?\?\d  ", line), line


def append(folder, line):
    with (folder / "inference.yml").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


BOMB: list = ["x"]
for _ in range(30):
    BOMB = [BOMB] * 10


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "inference.yml").unlink(), "is no exported model: it has no inference.yml"),
        (lambda d: (d / "inference.yml").write_text("Global: {a"), "is damaged: it is no YAML text"),
        (lambda d: (d / "inference.yml").write_bytes(b"\xff\xfe\x00"), "is damaged"),
        (lambda d: (d / "inference.yml").write_text("Global: {model_name: x}"), "by another program"),
        (lambda d: change(d, format=9), "is of format 9, written by a newer version"),
        (lambda d: change(d, format="1"), "has no format number"),
        (lambda d: change(d, files=None), "has no files"),
        (lambda d: change(d, header={}), "incomplete: its header has no config"),
        (lambda d: append(d, "z: 2001-99-99"), "is damaged: it is no YAML text"),
        (lambda d: append(d, "z: !!bool x"), "is damaged: it is no YAML text"),
        (lambda d: append(d, f"z: {'9' * 5000}"), "is damaged: it is no YAML text"),
        (lambda d: os.truncate(d / "inference.yml", 60_000_000), "is damaged: .* more than 50 MB"),
        (lambda d: change(d, files={5: "x"}), "names files by numbers"),
        (lambda d: change(d, more=datetime.date(2020, 1, 1)), "holds a date"),
        (lambda d: change(d, more=BOMB), r"holds too much \(do aliases multiply"),
        (
            lambda d: (d / "labels.txt").write_text("0 other\n"),
            "labels.txt is not the file that was exported",
        ),
        (lambda d: (d / "inference.onnx").write_bytes(b"x"), "inference.onnx is not the file that was"),
    ],
)
def test_each_fault_of_a_folder_is_one_error(spoil, words, copy):
    spoil(copy)
    with pytest.raises(ValueError, match=words) as caught:
        read_card(copy)
    assert str(copy) in str(caught.value)


def test_a_deleted_format_is_no_fault(copy):
    (copy / "inference.onnx").unlink()
    assert read_card(copy)["class_names"] == ["a b", "c", "猫"]


def test_label_files(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("tench\n猫\n10 downing street\n", encoding="utf-8")
    assert read_labels(path, 3) == ["tench", "猫", "10 downing street"]
    path.write_text("2 c\n0 a b\n1 猫\n", encoding="utf-8-sig")
    assert read_labels(path, 3) == ["a b", "猫", "c"]
    with pytest.raises(ExportError, match="names 3 classes, and the model has 4"):
        read_labels(path, 4)
    assert read_labels(Path("imagenet-1k"), 1000)[281] == "tabby, tabby cat"
    with pytest.raises(ExportError, match="names 1000 classes, and the model has 4"):
        read_labels(Path("imagenet-1k"), 4)
    path.write_bytes("狗的名字\n".encode("gbk"))
    with pytest.raises(ExportError, match="is no UTF-8 text"):
        read_labels(path, 1)
