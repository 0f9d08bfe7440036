"""Sets in their authors' layouts: whole ones, labels from every kind of list, and all that is refused."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from passl_sot.data import DataError
from passl_sot.data.imagenet import imagenet_classes
from passl_sot.judging.sets import CORRUPTIONS, find_set
from passl_sot.judging.val_labels import DEVKIT, FIRST, name_of, read_labels, read_real
from tests.judging.conftest import IDS

# The first of the devkit's numbers are dogs and cats; here any other order than that of the ids will do.
OWN_NUMBERS = {label: (label * 7 + 3) % 1000 + 1 for label in range(1000)}
LABELS = [*FIRST, *(number % 1000 for number in range(49_990))]
REAL = [[label] for label in LABELS]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("one") / "image"
    path.write_bytes(b"listed, not read")
    return path


def fill(image: Path, folder: Path, count: int, ending: str = "jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        os.link(image, folder / f"{number}.{ending}")


def refused(name: str, folder: Path, *words: str, partial: bool = False) -> None:
    with pytest.raises(DataError) as caught:
        find_set(name, str(folder), partial=partial)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_whole_sets(image, tmp_path):
    """7,500 images of ImageNet-A's own 200 classes, and 10,000 in folders by number, 2 before 10."""
    own = [number for number, known in enumerate(imagenet_classes()) if "A" in known.sets]
    for place, number in enumerate(own):
        fill(image, tmp_path / "a" / IDS[number], 75 if place % 2 else 0)
    refused("a", tmp_path / "a", "ImageNet-A has 7,500 images of 200 classes, and", "7,500 of 100")
    for place, number in enumerate(own):
        folder = tmp_path / "a" / IDS[number]
        for file in list(folder.iterdir()):
            file.unlink()
        fill(image, folder, 37 + place % 2)
    (part,) = find_set("a", str(tmp_path / "a"))
    assert (len(part.paths), part.partial, part.title) == (7_500, "", "ImageNet-A")
    # Those that SoT's accuracies on ImageNet-A are over.
    assert part.classes.tolist() == own and own[:5] == [6, 11, 13, 15, 17] and own[-2:] == [987, 988]
    assert np.bincount(part.answers[:, 0]).tolist() == [37, 38] * 100
    for number in range(1000):
        fill(image, tmp_path / "v2" / str(number), 10, "jpeg")
    (part,) = find_set("v2", str(tmp_path / "v2"))
    labels = {path.partition("/")[0]: label for path, (label,) in zip(part.paths, part.answers, strict=True)}
    assert len(part.paths) == 10_000 and all(int(folder) == label for folder, label in labels.items())
    refused("a", tmp_path / "v2", "is not ImageNet-A", "it may be ImageNet-V2 (v2=")


def test_partial_and_foreign_sets(image, tmp_path):
    ids = {letter: [c.id for c in imagenet_classes() if c.sets == letter] for letter in ("A", "R", "-")}
    for name in ids["R"][:3]:
        fill(image, tmp_path / "r" / name, 2)
    refused(
        "r", tmp_path / "r", "ImageNet-R has 30,000 images of 200 classes", "6 of 3", "--partial", "不完整"
    )
    (part,) = find_set("r", str(tmp_path / "r"), partial=True)
    assert part.partial == "6 of 30,000 images" and len(part.classes) == 200
    refused("a", tmp_path / "r", "is not ImageNet-A", f"'{ids['R'][0]}'", "ImageNet-R (r=", partial=True)
    refused("v2", tmp_path / "r", "named by number, 0 to 999", "ImageNet-R (r=", partial=True)
    fill(image, tmp_path / "r" / "cat", 1)
    refused("r", tmp_path / "r", "it holds 'cat'", partial=True)
    refused("sketch", tmp_path, "the classes seem to be in r: write sketch=", partial=True)
    (tmp_path / "empty" / IDS[0]).mkdir(parents=True)
    refused("sketch", tmp_path / "empty", "unpack it first", partial=True)
    refused("sketch", tmp_path / "empty" / IDS[0], "it holds no folders", partial=True)
    # More than there can be is no part of it.
    fill(image, tmp_path / "v2" / "0", 10_001)
    refused("v2", tmp_path / "v2", "it is something else", partial=True)
    for split in ("train", "val"):
        fill(image, tmp_path / "data" / split / IDS[0], 1)
    refused("val", tmp_path / "data", "the classes seem to be in val", partial=True)


def write(path: Path, lines) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def devkit(folder: Path) -> Path:
    """The authors' devkit: a number of their own for each image, and what the numbers mean."""
    scipy_io = pytest.importorskip("scipy.io")
    synsets = np.zeros(1003, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for label, name in enumerate(IDS):
        synsets[OWN_NUMBERS[label] - 1] = (OWN_NUMBERS[label], name, "some words")
    for more in range(1000, 1003):  # classes above the 1,000
        synsets[more] = (more + 1, f"n9999{more}", "animal")
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    path = write(data / DEVKIT, (str(OWN_NUMBERS[label]) for label in LABELS))
    scipy_io.savemat(str(data / "meta.mat"), {"synsets": synsets.reshape(-1, 1)})
    return path


def test_labels_of_one_folder(image, tmp_path):
    """The same by Caffe's list, PaddleClas's, Kaggle's, TensorFlow's and the devkit's own."""
    named = [(name_of(number), label) for number, label in enumerate(LABELS, 1)]
    numbers = ["1,000", "ImageId,PredictionString"]
    paths = [
        write(tmp_path / "1" / "val.txt", (f"{name}.JPEG {label}" for name, label in named)),
        write(
            tmp_path / "2" / "val_list.txt", (f"val/{name}.jpeg {label}" for name, label in reversed(named))
        ),
        write(
            tmp_path / "3" / "LOC_val_solution.csv",
            [numbers[1], *(f"{name},{IDS[label]} 1 2 3 4 " for name, label in named)],
        ),
        write(
            tmp_path / "4" / "imagenet_2012_validation_synset_labels.txt", (IDS[label] for label in LABELS)
        ),
        devkit(tmp_path / "5"),
    ]
    wanted = dict(enumerate(LABELS, 1))
    for path in paths:
        assert read_labels(path) == wanted, path
        images = path.parent / "ILSVRC" / "val"
        if path.name == DEVKIT:
            images = tmp_path / "5" / "val"
        images.mkdir(parents=True)
        for number in (2, 1, 40_000):
            os.link(image, images / f"{name_of(number)}.JPEG")
        (part,) = find_set("val", str(images), partial=True)
        assert part.paths == [f"{name_of(number)}.JPEG" for number in (1, 2, 40_000)]
        assert part.answers[:, 0].tolist() == [65, 970, LABELS[39_999]], path
    os.link(image, images / f"{name_of(50_001)}.JPEG")
    refused("val", images, "lists no class of 1 images", name_of(50_001), partial=True)
    paths[-1].with_name("meta.mat").unlink()
    refused("val", images, "meta.mat is missing", partial=True)
    paths[-1].unlink()
    refused(
        "val", images, "no list of their labels lies there or above", "LOC_val_solution.csv", partial=True
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.JPEG 3"], "list.txt:1: 'a.JPEG 3' is none of the 1,000 classes"),
        (["n01440764", "n00000001"], "list.txt:2: 'n00000001' is none of the 1,000 classes"),
        ([f"{name_of(20)}.JPEG 1000"], "numbers from 1 to 1000 are the devkit's, in another order"),
        ([f"{name_of(1)}.JPEG 490"], "ILSVRC2012_val_00000001 is of the class n03000247 (chain mail"),
        (
            [f"{name_of(20)} 1", f"{name_of(20)} 2"],
            "list.txt:2: ILSVRC2012_val_00000020 was given another class",
        ),
        (
            [str(label) for label in LABELS[:-1]],
            "has 49,999 labels without names, which must be those of all",
        ),
        ([str(label) for label in LABELS[::-1]], "images or classes are in another order"),
    ],
)
def test_lists_that_are_refused(tmp_path, lines, message):
    first = ["", *lines] if lines == ["a.JPEG 3"] else lines
    with pytest.raises(DataError, match=re.escape(message.replace("list.txt:1: 'a", "list.txt:2: 'a"))):
        read_labels(write(tmp_path / "list.txt", first))


def test_images_in_the_wrong_folders(image, tmp_path):
    """As of scripts that take the devkit's numbers for those of the sorted ids."""
    right, wrong = (tmp_path / name for name in ("right", "wrong"))
    for folder, label in ((right, FIRST[0]), (wrong, 489)):
        (folder / IDS[label]).mkdir(parents=True)
        os.link(image, folder / IDS[label] / f"{name_of(1)}.JPEG")
    (part,) = find_set("val", str(right), partial=True)
    assert part.answers.tolist() == [[65]]
    refused("val", wrong, "in another order", partial=True)


def test_real_labels(image, tmp_path):
    (tmp_path / "val").mkdir()
    os.link(image, tmp_path / "val" / f"{name_of(2)}.JPEG")
    path = tmp_path / "real.json"
    refused("real", tmp_path / "val", "real.json, are missing", partial=True)
    for content, message in (
        ("[[1]", "no JSON"),
        ("{}", "must be a list of 50,000 lists of classes, and has something else"),
        (json.dumps(REAL[1:]), "and has 49,999 entries"),
        (json.dumps([*REAL[:-1], [1000]]), "entry 49999, of ILSVRC2012_val_00050000, is [1000]"),
        (json.dumps([*REAL[:-1], 7]), "is 7, not a list of classes"),
        (json.dumps([*REAL[:-1], [7, 7]]), "is [7, 7], not a list of classes"),
        (json.dumps([*REAL[1:], []]), "entry 0 lacks the class 65"),
    ):
        path.write_text(content)
        refused("real", tmp_path / "val", message, partial=True)
    path.write_text(json.dumps([[], [], *REAL[2:]]))
    assert read_real(path)[:3] == [[], [], [230]]
    refused("real", tmp_path / "val", "has no labels for the images of", partial=True)
    path.write_text(json.dumps(REAL))
    (part,) = find_set("real", str(tmp_path / "val"), partial=True)
    assert part.answers.tolist() == [[970]] and part.partial == "1 of 50,000 images"
    os.link(image, tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG")
    refused("real", tmp_path / "val", "and not all have one", partial=True)


def test_parts_of_corruptions(image, tmp_path):
    """A corruption counts with all its severities; where one is missing, a part of the set is there."""
    for corruption in CORRUPTIONS["noise"]:
        for severity in range(1, 6):
            fill(image, tmp_path / "noise" / corruption / str(severity) / IDS[0], 1)
    refused("c", tmp_path, "lacks defocus_blur, glass_blur", "--partial")
    parts = find_set("c", str(tmp_path), partial=True)
    assert [part.title for part in parts[4:6]] == ["ImageNet-C gaussian_noise 5", "ImageNet-C shot_noise 1"]
    assert len(parts) == 15 and parts[0].partial == "1 of 50,000 images"
    fill(image, tmp_path / "noise" / "shot_noise" / "3" / "cat", 1)
    refused("c", tmp_path, "shot_noise/3 is not ImageNet-C", partial=True)
    refused("c", tmp_path / "noise" / "shot_noise", "lacks gaussian_noise", partial=True)
