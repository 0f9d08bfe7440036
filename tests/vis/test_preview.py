"""`passl-sot preview`: the very batches of a run, their labels, validation's crops, and texts as tokens."""

import re
from html import unescape

import numpy as np
import pytest

from passl_sot.data import build_dataset
from passl_sot.data.transforms.base import TRANSFORMS, BaseTransform
from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.vis.pixels import viewable
from passl_sot.vis.preview import crop_frame, every_transform, label_words, pieces_of, training_batches

MIXED = [
    "dataloader.train.sampler={batch_size: 8, repeats: 3}",
    "dataloader.train.dataset.transforms=[{name: RandomResizedCrop, size: 32}, {name: RandomHorizontalFlip}]",
    "dataloader.train.dataset.batch_transforms=[{name: Mixup, num_classes: 3, cutmix_alpha: 0.0,"
    " off_epoch: 1}, {name: Normalize}, {name: RandomErasing, prob: 1.0}]",
]
GROUPED = ["dataloader.train.sampler.group_by_length=true"]
VAL = "dataloader.val.dataset"


@pytest.fixture(scope="module")
def config(write_experiment, tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def texts(write_texts, tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize(("kind", "overrides"), [("config", MIXED), ("texts", GROUPED)])
def test_batches_are_those_of_training(kind, overrides, request):
    experiment = load_config(request.getfixturevalue(kind), overrides)
    loader = Parts(experiment, World()).train_loader
    section = experiment.dataloader.train
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        expected = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in loader]
        _, found, total = training_batches(section, seed=experiment.seed, epoch=epoch, count=2)
        assert len(found) == 2 and total == len(expected) == 3
        for batch, wanted in zip(found, expected, strict=False):
            assert batch.arrays.keys() == wanted.keys() and "label" in wanted
            for name, array in wanted.items():
                np.testing.assert_array_equal(batch.arrays[name], array, err_msg=name)
            assert [key[1] for key in batch.keys] == wanted["index"].tolist()
    _, every, _ = training_batches(section, seed=experiment.seed, epoch=0, count=99)
    assert len(every) == 3
    _, other, _ = training_batches(section, seed=experiment.seed + 1, epoch=0, count=1)
    assert other[0].arrays["index"].tolist() != every[0].arrays["index"].tolist()


def test_the_page_of_images(config, invoke, tmp_path, browser, requested):
    out = tmp_path / "out"
    words = ["-c", config, "--out", out, "--batches", 2]
    done = invoke("preview", *words, "-o", *MIXED)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "index.html",
        "train_1.png",
        "train_2.png",
        "val.png",
    ]
    page = unescape((out / "index.html").read_text(encoding="utf-8"))
    experiment = load_config(config, MIXED)
    dataset, batches, _ = training_batches(experiment.dataloader.train, seed=1, epoch=0, count=2)
    names = dataset.class_names
    assert page.count("Mixup: ") == 2 and page.count("Label smoothing spreads 0.1") == 2
    own, rest = map(
        float, re.search(r"Mixup: ([\d.]+) of each label is the image's own, ([\d.]+)", page).groups()
    )
    assert own + rest == pytest.approx(1)
    captions = re.findall(r"<figcaption dir=\"auto\">(.*?)</figcaption>", page, re.DOTALL)
    first = batches[0].arrays
    assert len(captions) == 2 * 8 + 2 * 9
    for number in range(8):
        one, other = (names[dataset.labels[first["index"][place]]] for place in (number, 7 - number))
        lines = captions[number].split("\n")
        if one == other:
            assert lines[0] == f"0.93 {one}"
        else:
            share = dict(zip(("own", "partner"), (0.9 * own + 0.1 / 3, 0.9 * rest + 0.1 / 3), strict=True))
            said = {
                line.removeprefix("+ ").split(" ", 1)[1]: float(line.removeprefix("+ ").split()[0])
                for line in lines[:2]
            }
            assert said == pytest.approx({one: share["own"], other: share["partner"]}, abs=0.02)
        files = [dataset.paths[int(first["index"][place])] for place in (number, 7 - number)]
        copy = batches[0].keys[number][2]
        assert lines[-3:] == [files[0], f"+ {files[1]}", f"copy {copy + 1}"]
    # Later nothing is mixed any more, and labels are smoothed all the same.
    later = invoke("preview", "-c", config, "--out", out, "--epoch", 2, "-o", *MIXED)
    assert later.returncode == 0
    assert (out / "index.html").read_text(encoding="utf-8").count("Not mixed. Label smoothing") == 1

    requested()
    browser.get((out / "index.html").as_uri())
    sizes = browser.execute_script("return [...document.images].map((i) => [i.naturalWidth, i.complete])")
    assert len(sizes) == 8 + 2 * 9 and all(width > 0 and done for width, done in sizes)
    assert not [url for url in requested() if not url.startswith(("file:", "data:"))]


def test_normalization_is_undone_to_the_byte(config, tmp_path):
    for channels, more in ((3, ""), (1, ", mean: [0.4], std: [0.3]")):
        overrides = [f"{VAL}.transforms=[{{name: Resize, size: [32, 32]}}, {{name: Normalize{more}}}]"]
        dataset = build_dataset(
            load_config(config, [*overrides, f"{VAL}.channels={channels}"]).dataloader.val.dataset
        )
        seen = viewable(every_transform(dataset), dataset.sample((0, 4))["image"])
        assert seen.shape == (32, 32, channels)
        again = dataset.transforms.transforms[-1](seen, np.random.default_rng(0))
        np.testing.assert_allclose(again, dataset.sample((0, 4))["image"], atol=1e-6)
        # What RandomErasing adds has no byte.
        assert {
            *np.unique(viewable(every_transform(dataset), np.full((channels, 2, 2), 99, np.float32)))
        } == {255}


def test_another_normalization_is_stretched(config):
    @TRANSFORMS.register()
    class Halved(BaseTransform):
        stage = "normalize"

        def apply(self, image, rng, epoch=0, out=None):
            return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 2

    try:
        dataset = build_dataset(
            load_config(config, [f"{VAL}.transforms=[{{name: Halved}}]"]).dataloader.val.dataset
        )
        seen = viewable(every_transform(dataset), dataset.sample((0, 0))["image"])
        assert seen.shape == (36, 40, 3) and seen.min() == 0 and seen.max() == 255
    finally:
        TRANSFORMS._objects.pop("Halved", None)


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ("{name: Resize, size: 36}, {name: CenterCrop, size: 18}", (0.25, 0.275, 0.75, 0.725)),
        ("{name: Resize, size: [20, 30]}", (0, 0, 1, 1)),
        ("{name: Resize, size: 72}, {name: CenterCrop, size: 72}", (0, 0.05, 1, 0.95)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_frame_is_what_the_crop_leaves(config, transforms, expected, channels):
    normalize = "{name: Normalize, mean: [0.5], std: [0.2]}"
    overrides = [f"{VAL}.transforms=[{transforms}, {normalize}]", f"{VAL}.channels={channels}"]
    dataset = build_dataset(load_config(config, overrides).dataloader.val.dataset)
    assert crop_frame(dataset, 36, 40) == pytest.approx(expected, abs=0.03)


def test_labels_in_words():
    names = ["cat", "dog", "龟"]
    assert label_words(np.int64(2), names) == ["龟"]
    assert label_words(np.int64(3), names) == ["3"]
    mixed = np.array([0.65, 0.3, 0.05], np.float32)
    assert label_words(mixed, names, 0.05) == ["0.65 cat", "+ 0.3 dog"]
    several = np.array([0, 1, 1], np.float32)
    assert label_words(several, names) == ["dog, 龟"]
    assert label_words(0 * several, names) == ["no class"]
    assert label_words(np.array([0.4, 0, 1]), names) == ["1 龟", "+ 0.4 cat"]


def test_texts_as_tokens(texts, invoke, tmp_path, browser):
    lengths = [f"dataloader.{split}.dataset.max_length=6" for split in ("train", "val")]
    experiment = load_config(texts, lengths)
    dataset, (batch,), _ = training_batches(experiment.dataloader.train, seed=1, epoch=0, count=1)
    for place, index in enumerate(batch.arrays["index"].tolist()):
        pieces = pieces_of(dataset.tokenizer, dataset.texts(index))
        read = [piece for piece in pieces if piece.kinds != "cut"]
        assert len(read) == batch.arrays["attention_mask"][place].sum()
        assert [piece.text for piece in read if piece.kinds == "special"] == ["[CLS]", "[SEP]"]
        whole = " ".join(piece.text for piece in pieces if piece.kinds != "special")
        assert whole == dataset.texts(index)
    pair = pieces_of(dataset.tokenizer, ("a the a the", "good xyz bad"))
    shown = " ".join(f"{piece.text}/{piece.kinds}" for piece in pair)
    assert shown == "[CLS]/special a/ the/ a the/cut [SEP]/special good/ xyz bad/cut [SEP]/special"
    assert [piece.kinds for piece in pieces_of(dataset.tokenizer, "xyz")] == ["special", "unknown", "special"]
    done = invoke("preview", "-c", texts, "--out", tmp_path, "-o", *lengths)
    assert done.returncode == 0, done.stderr
    browser.get((tmp_path / "index.html").as_uri())
    style = "return getComputedStyle(document.querySelector('.cut')).textDecorationLine"
    assert browser.execute_script(style) == "line-through"
    cells = browser.find_elements("css selector", ".tokens b")
    assert len(cells) == 8 + 9 and cells[0].text.startswith(("good (train.tsv:", "bad (train.tsv:"))


def test_wrong_words(config, invoke, tmp_path):
    done = invoke("preview", "-c", config, "--batches", 0)
    assert done.returncode == 2 and "--batches and --epoch must be at least 1" in done.stderr
    done = invoke("preview", "-c", config, "--out", tmp_path / "out", "-o", f"{VAL}.dataroot=nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr
    assert not [path for path in (tmp_path / "out").glob("**/*") if path.is_file()]
