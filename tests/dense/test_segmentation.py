"""Segmentation through PaddleSeg: its repairs, and training, evaluation, prediction and export by it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from PIL import Image

pytest.importorskip("paddleseg", reason="PaddleSeg is not installed; passl-sot doctor says how")

from paddleseg.datasets import Dataset
from paddleseg.models.losses import CrossEntropyLoss
from paddleseg.transforms import RandomPaddingCrop

from passl_sot.config import ConfigError, UserError, dense_configs
from passl_sot.dense.resizing import for_engines
from passl_sot.dense.run import describe, open_run
from passl_sot.dense.seg_config import read_segmentation
from passl_sot.dense.seg_repairs import class_areas, repair
from passl_sot.dense.segmentation import Segmentation
from passl_sot.engines.base import open_engine
from passl_sot.utils.logger import get_logger

ROOT = Path(__file__).parent.parent.parent
UPERNET = [
    "model={type: UPerNet, num_classes: 3, channels: 16, backbone_indices: [0, 1, 2, 3], "
    "enable_auxiliary_loss: true, backbone: {type: PasslSotPyramid, model: stvit_small, settings: "
    "{embed_dim: [8, 16, 16, 32], depths: [1, 1, 1, 1], num_heads: [1, 2, 2, 4]}}}",
    "loss.coef=[1.0, 0.4]",
]


@pytest.fixture(scope="module", autouse=True)
def repaired():
    """The suite's log would fill the reports."""
    repair()
    get_logger().setLevel("WARNING")
    yield
    get_logger().setLevel("INFO")


@pytest.fixture(scope="module")
def config(write_segmentation, tmp_path_factory) -> Path:
    return write_segmentation(tmp_path_factory.mktemp("segmentation"))


@pytest.fixture(scope="module")
def run(config, tmp_path_factory) -> tuple[Segmentation, Path, dict]:
    """A short training: the driver, its folder, and what it said of the best weights."""
    output = tmp_path_factory.mktemp("run")
    driver = Segmentation(config)
    return driver, output, driver.train(output, None, seed=3)


def test_training_leaves_the_best_weights_and_the_config(run, config):
    driver, output, metrics = run
    assert driver.evaluate(str(output / "best_model")) == metrics
    assert set(metrics) == {"miou", "accuracy"}
    assert 0 <= metrics["miou"] <= metrics["accuracy"] <= 1
    assert {path.name for path in output.iterdir()} == {"best_model", "config.yaml", "iter_2", "iter_4"}
    again = read_segmentation(output / "config.yaml")
    assert again.sections == driver.config.sections
    assert again.options == driver.config.options


def test_the_same_seed_trains_the_same_weights(run, config, tmp_path):
    Segmentation(config).train(tmp_path, None, seed=3)
    first, second = (paddle.load(str(folder / "iter_4" / "model.pdparams")) for folder in (run[1], tmp_path))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_it_learns(config, tmp_path):
    before = Segmentation(config, ["iters=2", "lr_scheduler.learning_rate=1.0e-9"])
    after = Segmentation(config, ["iters=60", "train.save_interval=60", "batch_size=4"])
    start = before.train(tmp_path / "before", None, seed=0)
    end = after.train(tmp_path / "after", None, seed=0)
    assert end["miou"] > max(0.5, start["miou"] + 0.2)


def test_resuming_goes_on_from_the_newest_checkpoint(config, tmp_path):
    Segmentation(config, ["iters=2"]).train(tmp_path, None, seed=0)
    weights = paddle.load(str(tmp_path / "iter_2" / "model.pdparams"))
    # Without a learning rate the weights stay: they are the checkpoint's, and so is its schedule.
    driver = Segmentation(config, ["iters=3"])
    driver.train(tmp_path, "auto", seed=0)
    state = paddle.load(str(tmp_path / "iter_3" / "model.pdopt"))
    assert state["LR_Scheduler"]["last_epoch"] == 3
    moved = paddle.load(str(tmp_path / "iter_3" / "model.pdparams"))
    assert any(not np.array_equal(weights[name], moved[name]) for name in weights)
    with pytest.raises(UserError, match="iter_3 is after all 3 iterations: raise iters"):
        Segmentation(config, ["iters=3"]).train(tmp_path, "auto", seed=0)


def test_better_weights_from_before_a_resumption_are_kept(config, tmp_path):
    first = Segmentation(config, ["iters=2"]).train(tmp_path, None, seed=0)
    path = str(tmp_path / "iter_2" / "model.pdparams")
    # What goes on from there takes every pixel for the rarest class.
    useless = {name: paddle.zeros_like(value) for name, value in paddle.load(path).items()}
    useless["classifier.bias"] = paddle.to_tensor([0.0, 0.0, 9.0])
    paddle.save(useless, path)
    assert Segmentation(config, ["iters=3"]).train(tmp_path, "auto", seed=0) == first
    assert Segmentation(config).evaluate(str(tmp_path / "best_model")) == first
    assert not (tmp_path / "best_before").exists()


def test_there_must_be_something_to_resume(config, tmp_path):
    with pytest.raises(
        UserError, match=r"can't resume from .*nowhere: it lacks model.pdparams and model.pdopt"
    ):
        Segmentation(config).train(tmp_path, str(tmp_path / "nowhere"), seed=0)


def test_predictions_are_files_of_the_images_sizes(run, config, tmp_path):
    driver, output, _ = run
    sizes = {"one.png": (1, 1), "odd.jpg": (37, 53), "gray.png": (20, 9)}
    random = np.random.default_rng(0)
    for name, size in sizes.items():
        shape = size if name.startswith("gray") else (*size, 3)
        Image.fromarray(random.integers(0, 255, shape, np.uint8)).save(tmp_path / name)
    files = driver.predict(str(output / "best_model"), [tmp_path / name for name in sizes], tmp_path / "out")
    assert [path.name for path in files[:2]] == ["one.png", "one_overlay.jpg"]
    for (height, width), labels, overlay in zip(sizes.values(), files[::2], files[1::2], strict=True):
        image = Image.open(labels)
        assert image.mode == "P"
        assert image.size == Image.open(overlay).size == (width, height)
        assert np.asarray(image).max() < 3


def test_what_is_predicted_is_what_is_evaluated(run, config, tmp_path):
    driver, output, metrics = run
    data = config.parent
    images = [data / f"val{number}.png" for number in range(3)]
    files = driver.predict(str(output / "best_model"), images, tmp_path)[::2]
    right = [
        np.asarray(Image.open(file)) == np.asarray(Image.open(data / f"val{number}_labels.png"))
        for number, file in enumerate(files)
    ]
    assert np.mean(right) == pytest.approx(metrics["accuracy"])


def test_images_of_one_name_are_refused(run, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "other" / "a.png"]
    with pytest.raises(UserError, match="several images are called a: predict them into other folders"):
        run[0].predict(str(run[1] / "best_model"), paths, tmp_path)


@pytest.mark.parametrize("head", ["semantic fpn", "upernet"])
def test_every_parameter_is_trained(head, config):
    model = Segmentation(config, UPERNET if head == "upernet" else []).build()
    model.train()
    # Nothing but zeros would leave gradients of zeros.
    outputs = model(paddle.randn([2, 3, 37, 53]))
    assert [list(output.shape) for output in outputs] == [[2, 3, 37, 53]] * (1 + (head == "upernet"))
    sum((output * paddle.randn(output.shape)).sum() for output in outputs).backward()
    still = [name for name, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert not still


def test_norms_and_biases_are_not_decayed(config):
    driver = Segmentation(config)
    driver.build()
    optimizer = driver._parts.optimizer
    decays = {p.name: group["weight_decay"] for group in optimizer._param_groups for p in group["params"]}
    for name, parameter in driver.build().named_parameters():
        if not parameter.stop_gradient:
            assert decays[parameter.name] == (0.0 if "norm" in name or "bias" in name else 0.01), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "size"), [(UPERNET, None), (["model.backbone.model=swin_tiny"], (64, 96))]
)
def test_exports_compute_what_the_model_does(overrides, size, config, tmp_path):
    pytest.importorskip("paddle2onnx", reason="the extra export is not installed")
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    if "swin" in str(overrides):
        overrides = [*overrides, "model.backbone.settings={embed_dim: 24, depths: [1, 1, 1, 1]}"]
    driver = Segmentation(config, overrides)
    model = driver.build()
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"))
    folder = driver.export(str(tmp_path), tmp_path / "out", size, onnx=True, logits=True)
    wanted = {"deploy.yaml", "inference.json", "inference.pdiparams", "inference.onnx"}
    assert {path.name for path in folder.iterdir()} == wanted
    images = np.random.default_rng(1).standard_normal([2, 3, *(size or (75, 101))], np.float32)
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images))[0].numpy()
    for engine in ("inference", "onnxruntime"):
        np.testing.assert_allclose(open_engine(engine, folder)(images), logits, atol=1e-4)


def test_classes_are_exported_for_the_suites_own_deployment(run, tmp_path):
    from paddleseg.deploy.infer import DeployConfig

    driver, output, _ = run
    folder = driver.export(str(output / "best_model"), tmp_path, None)
    deploy = DeployConfig(str(folder / "deploy.yaml"))
    assert Path(deploy.model).is_file()
    assert Path(deploy.params).is_file()
    assert deploy.dic["Deploy"]["output_op"] == "argmax"


def test_a_graph_of_swin_takes_one_size(config, tmp_path):
    small = "model.backbone.settings={embed_dim: 24, depths: [1, 1, 1, 1]}"
    driver = Segmentation(config, ["model.backbone.model=swin_tiny", small])
    paddle.save(driver.build().state_dict(), str(tmp_path / "model.pdparams"))
    with pytest.raises(UserError, match="takes one size of images, name it by --size"):
        driver.export(str(tmp_path), tmp_path / "out", None)


def test_weights_of_another_model_are_refused(run, config, tmp_path):
    other = Segmentation(config, UPERNET)
    with pytest.raises(
        UserError, match=r"isn't of the model in .*small.yaml: it lacks, or has in another shape"
    ):
        other.evaluate(str(run[1] / "best_model"))
    with pytest.raises(UserError, match="there are no weights"):
        other.evaluate(str(tmp_path / "none.pdparams"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+iterations=3", "iterations: PaddleSeg has no such section; did you mean 'iters'?"),
        ("+train.log_iter=3", "no such option of PaddleSeg's trainer; did you mean 'log_iters'?"),
        ("+model.fpn_channel=3", "PasslSotSemanticFPN takes no such argument; did you mean 'fpn_channels'?"),
        ("model.type=UPerNets", "PaddleSeg has no 'UPerNets'; did you mean 'UPerNet'?"),
        ("lr_scheduler.type=PolyDecay", "PaddleSeg has no 'PolyDecay'; did you mean 'PolynomialDecay'?"),
        ("iter=3", "there is no such key; did you mean 'iters'?"),
        ("+model._inherited_=false", "isn't read here"),
    ],
)
def test_wrong_names_are_told_with_the_nearest(override, words, config):
    with pytest.raises(ConfigError, match=re.escape(words)):
        Segmentation(config, [override])


def test_a_wrong_model_of_the_backbone_is_our_own_error(config):
    with pytest.raises(UserError, match="did you mean stvit_small"):
        Segmentation(config, ["model.backbone.model=stvit_smal"]).build()


def test_what_the_suite_refuses_is_one_error(config):
    with pytest.raises(
        UserError, match=r"small.yaml: PaddleSeg refuses it: .*num_classes.* is not consistent"
    ):
        Segmentation(config, ["model.num_classes=4"])


def test_missing_data_is_told_by_its_key(config, tmp_path):
    driver = Segmentation(config, [f"train_dataset.dataset_root={tmp_path}/none"])
    with pytest.raises(
        ConfigError, match=r"train_dataset.dataset_root: there is no .*none: put the data there"
    ):
        driver.train(tmp_path / "out", None, 0)
    driver = Segmentation(config, ["val_dataset.dataset_root=null"])
    with pytest.raises(ConfigError, match=r"val_dataset\.dataset_root: name the folder"):
        driver.evaluate("nothing")


def test_fewer_images_than_a_batch_are_refused(config, tmp_path):
    with pytest.raises(UserError, match="train_dataset has 8 images, fewer than the 9 of one step"):
        Segmentation(config, ["batch_size=9"]).train(tmp_path / "out", None, 0)


def test_more_than_255_classes(config, tmp_path):
    count = [f"{section}.num_classes=300" for section in ("model", "train_dataset", "val_dataset")]
    with pytest.raises(ConfigError, match="255 is also one of the 300 classes: write a number from 300 on"):
        Segmentation(config, count)
    ignored = [f"+{section}.ignore_index=65535" for section in ("train_dataset", "val_dataset")]
    with pytest.raises(ConfigError, match=r"pads by another number than .*: write 65535"):
        Segmentation(config, [*count, *ignored])
    padding = ["+train_dataset.transforms.0.label_padding_value=65535"]
    driver = Segmentation(config, [*count, *ignored, *padding])
    model = driver.build()
    # Whatever it sees, the last class.
    model.classifier.bias.set_value(1e6 * paddle.eye(300)[299])
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"))
    file = driver.predict(str(tmp_path), [config.parent / "val0.png"], tmp_path)[0]
    assert (np.asarray(Image.open(file)) == 299).all()


def test_labels_of_16_bits_keep_their_numbers(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "l.png")
    (tmp_path / "list.txt").write_text("a.png l.png\n")
    data = Dataset("val", str(tmp_path), [], 50000, val_path=str(tmp_path / "list.txt"), ignore_index=65535)
    loader = paddle.io.DataLoader(data, batch_size=1)
    assert next(iter(loader))["label"].astype("int64").unique().tolist() == [40000]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_image_is_named(workers, write_segmentation, tmp_path):
    config = write_segmentation(tmp_path / "data")
    damaged = tmp_path / "data" / "train3.png"
    damaged.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^[^\n]*train3\.png with .*can't be read"):
        Segmentation(config, [f"+train.num_workers={workers}"]).train(tmp_path / "out", None, 0)


def test_a_loss_that_is_no_number_ends_training(config, tmp_path):
    spoiled = ["lr_scheduler.learning_rate=1e30", "iters=4"]
    with pytest.raises(UserError, match=r"the loss has become (nan|inf).*Lower lr_scheduler\.learning_rate"):
        Segmentation(config, spoiled).train(tmp_path, None, 0)


def test_a_class_too_many_is_told(config, tmp_path):
    fewer = [f"{section}.num_classes=2" for section in ("model", "train_dataset", "val_dataset")]
    with pytest.raises(UserError, match="a label file of train_dataset has a class too many"):
        Segmentation(config, fewer).train(tmp_path, None, 0)


def test_areas_are_those_that_are_counted_one_by_one():
    random = np.random.default_rng(0)
    pred = random.integers(0, 4, (2, 1, 5, 7))
    label = random.choice([0, 1, 2, 3, 9], (2, 1, 5, 7))
    found = class_areas(paddle.to_tensor(pred), paddle.to_tensor(label), 4, 9)
    kept = label != 9
    both, predicted, true = (
        [int(((pred == k) & (label == k)).sum()) for k in range(4)],
        [int(((pred == k) & kept).sum()) for k in range(4)],
        [int((label == k).sum()) for k in range(4)],
    )
    assert [area.tolist() for area in found] == [both, predicted, true]


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]])
def test_the_loss_is_the_weighted_mean_over_pixels_that_count(weight):
    paddle.seed(0)
    logits = paddle.randn([2, 3, 4, 5])
    labels = paddle.to_tensor(np.random.default_rng(0).choice([0, 1, 2, 255], (2, 4, 5)))
    found = CrossEntropyLoss(weight=weight)(logits, labels)
    factors = None if weight is None else paddle.to_tensor(weight)
    wanted = F.cross_entropy(logits.transpose([0, 2, 3, 1]), labels, weight=factors, ignore_index=255)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    hardest = CrossEntropyLoss(weight=weight, top_k_percent_pixels=0.5)(logits, labels)
    assert float(hardest) > float(found)


def test_crops_are_of_the_image():
    image = np.arange(30 * 40 * 3, dtype=np.float32).reshape(30, 40, 3)
    labels = np.arange(30 * 40).reshape(30, 40) % 5
    crop = RandomPaddingCrop(crop_size=[8, 6], category_max_ratio=0.75)
    data = crop({"img": image, "label": labels, "gt_fields": ["label"]})
    assert data["img"].shape == (6, 8, 3)
    places = data["img"][..., 0].astype(int) // 3
    assert np.array_equal(places % 5, data["label"])


def test_forms_for_engines_compute_the_same():
    x = paddle.randn([2, 3, 5, 7])
    asked = [
        lambda: F.interpolate(x, [9, 8], mode="bilinear"),
        lambda: F.interpolate(x, paddle.to_tensor([9, 8]), mode="bilinear", align_corners=True),
        lambda: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda: F.interpolate(x, scale_factor=2, mode="nearest"),
        *(lambda bins=bins: F.adaptive_avg_pool2d(x, bins) for bins in (1, 2, 3, 6, (4, 9))),
    ]
    for compute in asked:
        wanted = compute()
        with for_engines():
            found = compute()
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-6)


def test_every_shipped_segmenter_is_accepted():
    files = {name: path for name, path in dense_configs().items() if "ade20k" in name}
    assert len(files) == 12
    for path in files.values():
        config = read_segmentation(path)
        assert config.sections["model"]["num_classes"] == 150
        assert {"recipe", "published"} <= set(config.meta)
        assert len(path.read_text().splitlines()) <= 30


def test_a_dry_run_measures_without_data():
    lines = describe(open_run(dense_configs()["upernet_stvit_small_ade20k"]), 64, 64)
    figures = dict(line.split(maxsplit=1) for line in lines[:4])
    assert figures["image"] == "64x64 pixels"
    assert figures["parameters"] == "46.763 M trainable"
    assert float(figures["compute"].split()[0]) == pytest.approx(3.6, abs=0.1)


@pytest.mark.slow
def test_two_processes_train_one_model(config, tmp_path):
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    launch += [
        "--log_dir",
        str(tmp_path / "log"),
        str(ROOT / "tools" / "dense.py"),
        "train",
        "-c",
        str(config),
    ]
    done = subprocess.run(
        [*launch, "--output", str(tmp_path / "out"), "--json", "-q"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    alone = Segmentation(config).evaluate(str(tmp_path / "out" / "best_model"))
    assert said == pytest.approx(alone)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["iters"] == 4
