"""The batch stage by itself, and both orders of augmentation through the loader on real files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot.config import ConfigError
from passl_sot.data import DataError, build_dataloader, build_dataset
from passl_sot.data.rng import batch_rng, image_rng
from passl_sot.data.transforms.compose import BatchStage, Compose, build_batch_transforms
from passl_sot.data.transforms.image import Normalize, RandomHorizontalFlip
from passl_sot.data.transforms.mixup import Mixup, RandomErasing

ROOT = Path(__file__).parent.parent.parent
_CROP = [{"name": "RandomResizedCrop", "size": 32}, {"name": "RandomHorizontalFlip"}]
_MIX = {"name": "Mixup", "num_classes": 6}
_FLOAT = {"name": "Normalize"}
_ERASE = {"name": "RandomErasing", "prob": 0.5}
# Mixed as uint8, then normalised, then erased; and erased image by image, then mixed.
_ORDERS = {
    "sot": ([*_CROP, {"name": "RandAugment"}], [_MIX, _FLOAT, _ERASE]),
    "deit": ([*_CROP, {"name": "RandAugment"}, _FLOAT, _ERASE], [_MIX]),
}


def _pixels(photos) -> np.ndarray:
    """A batch of real content, uint8 [6, 60, 80, 3]."""
    return np.stack([photos[i % 2][20 * i : 20 * i + 60, 15 * i : 15 * i + 80] for i in range(6)])


@pytest.fixture
def files(tmp_path, photos) -> str:
    """Six classes of three real JPEG files each."""
    for label in range(6):
        (tmp_path / "train" / f"class{label}").mkdir(parents=True)
        for number in range(3):
            photo = photos[label % 3]
            cut = photo[10 * number : 10 * number + 70, 15 * label // 3 : 15 * label // 3 + 90]
            Image.fromarray(cut).save(tmp_path / "train" / f"class{label}" / f"{number}.jpg", quality=92)
    return os.fspath(tmp_path / "train")


def _section(
    root: str, order: tuple[list, list | None], *, workers: int = 0, batch_size: int = 4, **sampler
) -> dict:
    return {
        "loader": {"num_workers": workers},
        "sampler": {"batch_size": batch_size, **sampler},
        "dataset": {
            "name": "ImageFolder",
            "dataroot": root,
            "transforms": order[0],
            "batch_transforms": order[1],
        },
    }


def _epoch(section: dict, *, seed: int = 0, epoch: int = 0, **more) -> list[dict[str, np.ndarray]]:
    loader = build_dataloader(section, mode="train", seed=seed, **more)
    loader.sampler.set_epoch(epoch)
    return [{key: value.numpy() for key, value in batch.items()} for batch in loader]


def _equal(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x[key], y[key])
        for x, y in zip(a, b, strict=True)
        for key in ("image", "label", "index")
    )


# -- the batch stage --------------------------------------------------------------------------------
def test_single_images_have_draws_of_their_own(photos):
    """What happens to an image depends on seed, epoch and its index, not on its batch."""
    pixels = _pixels(photos)
    stage = BatchStage([RandomHorizontalFlip(), Normalize(), RandomErasing(prob=0.5)], normalized=False)
    labels = np.arange(6)
    keys = [(3, 10 + i) for i in range(6)]
    images, same = stage(pixels, labels, seed=7, keys=keys)
    np.testing.assert_array_equal(same, labels)
    assert images.dtype == np.float32 and images.shape == (6, 3, 60, 80)
    turned = stage(pixels[::-1], labels, seed=7, keys=keys[::-1])[0]
    np.testing.assert_array_equal(turned[::-1], images)
    for other in ({"seed": 8, "keys": keys}, {"seed": 7, "keys": [(4, i) for _, i in keys]}):
        assert not np.array_equal(stage(pixels, labels, **other)[0], images)


def test_the_whole_stage_is_its_transforms_one_image_after_the_other(photos):
    pixels, keys = _pixels(photos), [(2, i) for i in range(6)]
    mixup, singles = Mixup(num_classes=6), [Normalize(), RandomErasing(prob=0.7), RandomErasing()]
    for seed in range(10):
        stage = BatchStage([mixup, *singles], normalized=False)
        before = pixels.copy()
        result, targets = stage(pixels, np.arange(6), seed=seed, keys=keys)
        np.testing.assert_array_equal(pixels, before)
        mixed, expected = mixup(pixels, np.arange(6), batch_rng(seed, keys), 2)
        np.testing.assert_array_equal(targets, expected)
        for i, key in enumerate(keys):
            expected = Compose(singles)(mixed[i], image_rng(seed, key, late=True))
            np.testing.assert_array_equal(result[i], expected)


def test_the_batch_stage_does_not_repeat_the_draws_of_the_images(files):
    """Drawn from the same numbers, the second flip would undo the first one in every image."""
    resize, flip = {"name": "Resize", "size": [32, 32]}, {"name": "RandomHorizontalFlip"}
    twice = _epoch(_section(files, ([resize, flip], [flip, _FLOAT]), batch_size=18, shuffle=False))
    never = _epoch(_section(files, ([resize, _FLOAT], None), batch_size=18, shuffle=False))
    same = (twice[0]["image"] == never[0]["image"]).all((1, 2, 3)).sum()
    assert 4 <= same <= 14


def test_one_draw_per_batch_from_seed_epoch_and_indices(photos):
    pixels = _pixels(photos)
    stage = BatchStage([Mixup(num_classes=6)], normalized=False)
    seen = set()
    for seed, epoch, first in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0)):
        keys = [(epoch, first + i) for i in range(6)]
        targets = [stage(pixels, np.arange(6), seed=seed, keys=keys)[1] for _ in range(2)]
        np.testing.assert_array_equal(*targets)
        seen.add(targets[0].tobytes())
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("nodes", "normalized", "words"),
    [
        ([_MIX, _MIX, _FLOAT], False, "Mixup stands twice"),
        ([_MIX, _ERASE, _FLOAT], False, "batch_transforms: RandomErasing works on normalised images"),
        ([_MIX, _FLOAT], True, "batch_transforms: images are normalised twice; keep one Normalize"),
        ([_MIX, {"name": "RandAugment"}], True, "batch_transforms: RandAugment works on uint8 images"),
        ([_FLOAT, _MIX, {"name": "RandAugment"}], False, "batch_transforms: RandAugment works on uint8"),
    ],
)
def test_orders_that_cannot_be(nodes, normalized, words):
    with pytest.raises(ValueError, match=words):
        build_batch_transforms(nodes, normalized=normalized)


def test_orders_that_can(files):
    for transforms, later in (
        *_ORDERS.values(),
        (_CROP, [_FLOAT, _MIX, _ERASE]),
        ([*_CROP, _FLOAT], [_MIX, _ERASE]),
    ):
        dataset = build_dataset(_section(files, (transforms, later))["dataset"])
        assert dataset.batch_stage.normalizes and dataset.output_hw == (32, 32)
    for nothing in (None, []):
        assert build_batch_transforms(nothing, normalized=True) is None
    with pytest.raises(ConfigError, match=r"must hold {name: Normalize}"):
        build_dataset(_section(files, (_CROP, [_MIX]))["dataset"])
    with pytest.raises(ConfigError, match=r"Mixup.*num_classes"):
        build_dataset(_section(files, (_CROP, [{"name": "Mixup"}, _FLOAT]))["dataset"])


# -- through the loader -----------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["sot", "deit"])
def test_independent_of_workers(files, order):
    results = [
        [_epoch(_section(files, _ORDERS[order], workers=workers), seed=3, epoch=e) for e in (0, 1)]
        for workers in (0, 1, 2)
    ]
    for result in results[1:]:
        assert all(_equal(result[e], results[0][e]) for e in (0, 1))
    batches = results[0][0]
    assert len(batches) == 4 and not _equal(*results[0])
    assert not _equal(_epoch(_section(files, _ORDERS[order]), seed=4), batches)
    assert len({batch["label"].max() for batch in batches}) == 4  # another λ in each batch
    for batch in batches:
        assert batch["image"].dtype == np.float32 and batch["image"].shape == (4, 3, 32, 32)
        assert batch["label"].dtype == np.float32 and batch["label"].shape == (4, 6)
        np.testing.assert_allclose(batch["label"].sum(1), 1, atol=1e-6)


# -- repeated augmentation --------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["sot", "deit"])
def test_copies_differ_and_do_not_depend_on_workers(files, order):
    sections = [
        _section(files, _ORDERS[order], workers=workers, batch_size=6, repeats=3) for workers in (0, 2)
    ]
    batches = _epoch(sections[0], seed=3)
    assert _equal(_epoch(sections[1], seed=3), batches)
    assert len(batches) == 3
    for batch in batches:
        assert len(set(batch["index"][:3])) == len(set(batch["index"][3:])) == 1
        assert len({image.tobytes() for image in batch["image"]}) == 6


def test_a_copy_does_not_depend_on_the_number_of_processes(files):
    order = ([*_CROP, {"name": "RandAugment"}, _FLOAT, _ERASE], [{"name": "RandomErasing", "prob": 0.9}])
    section = _section(files, order, repeats=3)
    one = _epoch({**section, "sampler": {"batch_size": 12, "repeats": 3}}, seed=3)
    three = [_epoch(section, seed=3, rank=rank, world_size=3) for rank in range(3)]
    assert len(one) == len(three[0]) == 1
    for rank, ((batch,), joined) in enumerate(zip(three, [one[0]] * 3, strict=True)):
        np.testing.assert_array_equal(batch["index"], joined["index"][rank::3])
        np.testing.assert_array_equal(batch["image"], joined["image"][rank::3])


def test_processes_with_the_same_images_mix_them_differently(files):
    """With three processes each holds one copy of every image: the same indices, another λ."""
    section = _section(files, _ORDERS["deit"], repeats=3)
    batches = [_epoch(section, seed=3, rank=rank, world_size=3)[0] for rank in range(3)]
    assert len({batch["index"].tobytes() for batch in batches}) == 1
    assert len({batch["label"].tobytes() for batch in batches}) == 3


def test_evaluation_has_no_copies(files):
    section = _section(files, ([*_CROP, _FLOAT], None), repeats=3)
    with pytest.raises(DataError, match=r"val\.sampler\.repeats is 3; .* write repeats: 1, or leave it out"):
        build_dataloader(section, mode="val", seed=0)


def _shares(batch: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """λ, read off the targets of a batch in which some pair has two classes."""
    own, partner = labels[batch["index"]], labels[batch["index"][::-1]]
    (places,) = np.nonzero(own != partner)
    found = [(batch["label"][i, own[i]] - 0.1 / 6) / 0.9 for i in places]
    assert np.ptp(found) < 1e-5
    return found[0]


@pytest.mark.parametrize("cut", [False, True])
def test_sots_order_step_by_step(files, cut):
    """uint8 is mixed, and only then normalised and erased."""
    mix = {**_MIX, "cutmix_alpha" if not cut else "mixup_alpha": 0}
    erase = {**_ERASE, "prob": 1.0}
    section = _section(files, (_ORDERS["sot"][0], [mix, _FLOAT, erase]), batch_size=6)
    dataset = build_dataset(section["dataset"])
    dataset.seed = 5
    for batch in _epoch(section, seed=5, epoch=2):
        plain = np.stack([dataset[(2, int(i))]["image"] for i in batch["index"]])
        assert plain.dtype == np.uint8
        share = _shares(batch, dataset.labels)
        partner = plain[::-1]
        if not cut:
            mixed = np.round(share * plain.astype(float) + (1 - share) * partner.astype(float))
        erased = np.zeros((6, 32, 32), bool)
        for i in range(6):
            back = batch["image"][i].transpose(1, 2, 0) * (0.229, 0.224, 0.225) + (0.485, 0.456, 0.406)
            # Where all three channels are whole numbers of 255ths, nothing has been erased.
            erased[i] = (np.abs(back * 255 - np.round(back * 255)) > 1e-3).any(2)
            if cut:
                own = (np.abs(back * 255 - plain[i]) < 1e-3).all(2)
                other = (np.abs(back * 255 - partner[i]) < 1e-3).all(2)
                assert (own | other | erased[i]).all()
            else:
                # λ is known from float32 targets only: a rounding may turn out the other way.
                difference = np.abs(back * 255 - mixed[i])[~erased[i]]
                assert difference.max() < 1.01 and (difference > 0.01).mean() < 0.01
            rows, columns = np.flatnonzero(erased[i].any(1)), np.flatnonzero(erased[i].any(0))
            area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            assert erased[i].sum() > 0.95 * area and 0.01 < area / 32**2 < 0.37
        assert (
            len({erased[i].tobytes() for i in range(6)}) == 6
        )  # after mixing: each has a rectangle of its own


def test_deits_order_step_by_step(files):
    """Each image is erased, and then the floats, noise included, are mixed."""
    section = _section(files, _ORDERS["deit"], batch_size=6)
    dataset = build_dataset(section["dataset"])
    dataset.seed = 5
    kinds = set()
    for epoch in range(3):
        for batch in _epoch(section, seed=5, epoch=epoch):
            plain = np.stack([dataset[(epoch, int(i))]["image"] for i in batch["index"]])
            share = _shares(batch, dataset.labels)
            blended = share * plain + (1 - share) * plain[::-1]
            if np.allclose(batch["image"], blended, atol=1e-4):
                kinds.add("mixup")
                continue
            kinds.add("cutmix")
            taken = (batch["image"] == plain[::-1]).all((0, 1))
            assert (taken | (batch["image"] == plain).all((0, 1))).all()
            assert taken.mean() == pytest.approx(1 - share, abs=0.01)
    assert kinds == {"mixup", "cutmix"}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_odd_batches(files, batch_size):
    for order in _ORDERS.values():
        section = _section(files, order, batch_size=batch_size, drop_last=False)
        batches = _epoch(section)
        assert len(batches) == -(-18 // batch_size)
        labels = build_dataset(section["dataset"]).labels
        middle = batch_size // 2
        for batch in batches:
            assert batch["image"].shape == (batch_size, 3, 32, 32)
            assert batch["label"][middle, labels[batch["index"][middle]]] == pytest.approx(0.9 + 0.1 / 6)


def test_each_process_mixes_its_own_batch(files):
    section = _section(files, _ORDERS["sot"], batch_size=4)
    one, two = (_epoch(section, rank=rank, world_size=2) for rank in (0, 1))
    for a, b in zip(one, two, strict=True):
        assert not set(a["index"]) & set(b["index"])
        assert not np.array_equal(np.sort(a["label"].ravel()), np.sort(b["label"].ravel()))


def test_resume_in_mid_epoch(files):
    section = _section(files, _ORDERS["sot"], workers=2)
    whole = _epoch(section, epoch=1)
    loader = build_dataloader(section, mode="train", seed=0)
    loader.sampler.set_epoch(1)
    for number, _ in enumerate(loader, 1):
        if number == 2:
            break
    again = build_dataloader(section, mode="train", seed=0)
    again.sampler.load_state_dict(loader.sampler.state_dict())
    assert _equal([{k: v.numpy() for k, v in batch.items()} for batch in again], whole[2:])


def test_labels_stay_integers_without_mixup(files):
    (batch, *_) = _epoch(_section(files, (_CROP, [_FLOAT, _ERASE])))
    assert batch["label"].dtype == np.int64 and batch["label"].shape == (4,)


def test_evaluation_refuses_a_batch_stage(files):
    section = _section(files, ([{"name": "Resize", "size": [32, 32]}, _FLOAT], [_MIX]))
    with pytest.raises(
        DataError, match=r"dataloader.val.dataset.batch_transforms is set.*write batch_transforms: null"
    ):
        build_dataloader(section, mode="val", seed=0)
    section["dataset"]["batch_transforms"] = None
    assert len(build_dataloader(section, mode="val", seed=0)) == 5


@pytest.mark.parametrize("workers", [0, 1])
def test_faults_in_a_worker_reach_the_user(files, workers):
    few = ([*_CROP, _FLOAT], [{**_MIX, "num_classes": 3}])
    with pytest.raises(DataError, match=r"an image has label [345], but Mixup.num_classes is 3") as caught:
        _epoch(_section(files, few, workers=workers))
    assert "Traceback" not in str(caught.value)
    loader = build_dataloader(_section(files, _ORDERS["sot"], workers=workers), mode="train", seed=0)
    loader.dataset.batch_stage._steps[1]._steps[0] = _fail
    with pytest.raises(DataError, match=r"in batch_transforms:\nTraceback[\s\S]*a transform's own trouble"):
        list(loader)


def _fail(image, rng, epoch, out):
    raise KeyError("a transform's own trouble")


def test_bad_files_are_replaced_before_mixing(files):
    Path(files, "class1", "1.jpg").write_bytes(b"<html>")
    batches = [_epoch(_section(files, _ORDERS["sot"], workers=workers)) for workers in (0, 2)]
    assert _equal(*batches)
    assert 4 not in np.concatenate([batch["index"] for batch in batches[0]])


# -- the recipe of the configs ----------------------------------------------------------------------
def test_the_recipe_of_the_imagenet_configs(files):
    import paddle

    from passl_sot.engine.schema import load_config
    from passl_sot.modeling.losses import LOSSES

    overrides = [
        "model.architecture.img_size=32",
        "model.head.num_classes=6",
        "loss.label_smoothing=0.2",
        f"dataloader.train.dataset.dataroot={files}",
        "dataloader.train.loader.num_workers=0",
        "dataloader.train.sampler.batch_size=6",
    ]
    cfg = load_config(ROOT / "configs" / "sot" / "sot_tiny.yaml", overrides)
    loader = build_dataloader(cfg.dataloader.train, mode="train", seed=0)
    dataset = loader.dataset
    names = [type(t).__name__ for t in (*dataset.transforms.transforms, *dataset.batch_stage.transforms)]
    assert names == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandAugment",
        "Mixup",
        "Normalize",
        "RandomErasing",
    ]
    mixup, erasing = dataset.batch_stage.transforms[0], dataset.batch_stage.transforms[2]
    assert (mixup.num_classes, mixup.label_smoothing) == (6, 0.2)
    assert (erasing.prob, erasing.scale, erasing.ratio, erasing.count) == (0.25, (0.02, 1 / 3), 0.3, 1)
    loss = LOSSES.build(cfg.loss)
    for batch in loader:
        assert list(batch["image"].shape) == [6, 3, 32, 32] and list(batch["label"].shape) == [6, 6]
        assert batch["label"].numpy().min() == pytest.approx(0.2 / 6)
        # Even logits cost log K whatever the targets are, if these sum to 1.
        assert float(loss(paddle.zeros([6, 6]), batch["label"])) == pytest.approx(math.log(6), abs=1e-5)


def test_a_transform_of_ones_own_may_change_the_size_of_normalised_images(photos):
    class Half:
        stage = "normalized"

        def __call__(self, image, rng):
            return image[:, ::2, ::2]

    stage = BatchStage([Normalize(), Half()], normalized=False)
    images, _ = stage(np.stack([photos[0][:32, :32]] * 3), np.zeros(3, np.int64), seed=0, keys=[(0, 0)] * 3)
    assert images.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(images[1], Normalize()(photos[0][:32, :32], None)[:, ::2, ::2])
