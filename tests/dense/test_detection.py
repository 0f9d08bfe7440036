"""Detectors through PaddleDetection: training, evaluation, prediction, export, and all that can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ppdet", reason="PaddleDetection is not installed")

import paddle
from PIL import Image, ImageFile

from passl_sot.config import ConfigError, UserError
from passl_sot.dense.detection import Detection
from tests.dense.coco import BASES, write_coco, write_config

SIZES = ((64, 80), (50, 90), (64, 80), (64, 80))
HEADS = ("mask_rcnn", "cascade_mask_rcnn")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco") / "data", SIZES, empty=[3]).parent


@pytest.fixture(scope="module", params=HEADS)
def trained(request, data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A detector that was trained for two epochs, its folder, and its metrics."""
    folder = tmp_path_factory.mktemp(request.param)
    detector = Detection(write_config(folder, data, request.param))
    metrics = detector.train(folder / "output", None, seed=0)
    return detector, folder / "output", metrics


def test_training_leaves_its_config_snapshots_and_best_metrics(trained, capfd):
    detector, output, metrics = trained
    assert {"config.yaml", "best.json", "best_model.pdparams", "0.pdopt", "model_final.pdparams"} <= {
        path.name for path in output.iterdir()
    }
    assert json.loads((output / "best.json").read_text()) == metrics
    assert detector.evaluate(str(output / "best_model")) == pytest.approx(metrics)
    again = Detection(output / "config.yaml")
    assert again.evaluate(str(output / "best_model.pdparams")) == pytest.approx(metrics)
    assert not Path("bbox.json").exists()
    # Standard output is for results.
    capfd.readouterr()
    again.evaluate(str(output / "best_model"))
    assert capfd.readouterr().out == ""


def test_predictions_are_pictures_and_a_list_in_cocos_form(trained, data: Path, tmp_path: Path):
    detector, output, _ = trained
    images = [data / "images" / "1.png", data / "images" / "0.png"]
    files = detector.predict(str(output / "best_model"), images, tmp_path, threshold=0.0)
    assert [path.name for path in files] == ["1.png", "0.png", "results.json"]
    assert [Image.open(path).size for path in files[:2]] == [(90, 50), (80, 64)]
    assert (np.asarray(Image.open(files[0])) != np.asarray(Image.open(images[0]).convert("RGB"))).any()
    rows = json.loads(files[-1].read_text())
    assert {row["category_id"] for row in rows} <= {3, 7}
    assert {row["file_name"] for row in rows} == {"0.png", "1.png"}
    from pycocotools import mask

    for row in rows:
        height, width = {"1.png": (50, 90), "0.png": (64, 80)}[row["file_name"]]
        left, top, w, h = row["bbox"]
        assert left >= -1e-3 and left + w <= width + 1e-3 and top >= -1e-3 and top + h <= height + 1e-3
        assert mask.decode(row["segmentation"]).shape == (height, width)


def test_one_pixel_and_thin_images_are_predicted(trained, tmp_path: Path):
    detector, output, _ = trained
    paths = []
    for number, size in enumerate(((1, 1), (3, 200), (200, 3), (37, 53))):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(paths[-1])
    files = detector.predict(str(output / "best_model"), paths, tmp_path / "out")
    assert [Image.open(path).size for path in files[:-1]] == [Image.open(path).size for path in paths]


def test_where_nothing_is_found_the_picture_is_the_image(trained, data: Path, tmp_path: Path):
    detector, output, _ = trained
    strict = Detection(detector.path, ["BBoxPostProcess.nms.score_threshold=0.999"])
    images = [data / "images" / "0.png"]
    picture, rows = strict.predict(str(output / "best_model"), images, tmp_path / "out", threshold=0.0)
    assert json.loads(rows.read_text()) == []
    assert (np.asarray(Image.open(picture)) == np.asarray(Image.open(images[0]).convert("RGB"))).all()
    assert set(strict.evaluate(str(output / "best_model")).values()) == {0.0}


def test_images_that_cannot_be_predicted_are_named(trained, data: Path, tmp_path: Path):
    detector, output, _ = trained
    weights = str(output / "best_model")
    good = data / "images" / "0.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:500])
    (tmp_path / "0.png").write_bytes(good.read_bytes())
    for images, message in (
        ([broken], "broken.png is no image that can be read"),
        ([tmp_path / "none.png"], "there is no image"),
        ([tmp_path / "image.webp"], "PaddleDetection reads .jpg"),
        ([good, tmp_path / "0.png"], "several images are called 0.png"),
    ):
        with pytest.raises(UserError, match=message):
            detector.predict(weights, images, tmp_path / "out")
    with pytest.raises(UserError, match="would be replaced by its picture"):
        detector.predict(weights, [good], good.parent)


@pytest.mark.parametrize("part", ["train", "evaluate"])
def test_a_damaged_image_is_named(part, trained, tmp_path: Path):
    path = write_coco(tmp_path / "data")
    (path.parent / "images" / "1.png").write_bytes(b"nothing")
    detector = Detection(write_config(tmp_path, tmp_path / "data", trained[0].path.stem))
    with pytest.raises(UserError, match=r"images/1\.png can't be read"):
        if part == "train":
            detector.train(tmp_path / "out", None, 0)
        else:
            detector.evaluate(str(trained[1] / "best_model"))


def test_boxes_without_area_have_features_and_gradients():
    from ppdet.modeling.heads.roi_extractor import RoIAlign

    from passl_sot.dense.det_repairs import repair

    repair()
    maps = [paddle.rand([1, 2, side, side]) for side in (16, 8, 4)]
    for x in maps:
        x.stop_gradient = False
    boxes = [paddle.to_tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 4.0, 40.0, 40.0], [9.0, 9.0, 9.0, 30.0]])]
    align = RoIAlign(7, spatial_scale=[1 / 4, 1 / 8, 1 / 16], end_level=2, aligned=True)
    features = align(maps, boxes, paddle.to_tensor([3], "int32"))
    features.sum().backward()
    assert np.isfinite(features.numpy()).all()
    assert all(np.isfinite(x.grad.numpy()).all() for x in maps)
    np.testing.assert_allclose(features[0].numpy()[:, 0, 0], maps[0][0, :, 0, 0].numpy(), atol=1e-3)


def test_a_loss_that_is_no_number_ends_training(data: Path, tmp_path: Path):
    spoiled = ["LearningRate.base_lr=1e30", "epoch=4"]
    detector = Detection(write_config(tmp_path, data), spoiled)
    with pytest.raises(UserError, match=r"the loss has become (nan|inf).*Lower LearningRate\.base_lr"):
        detector.train(tmp_path / "out", None, 0)


@pytest.mark.slow
def test_the_exported_detector_finds_the_same_boxes(trained, tmp_path: Path):
    from passl_sot.dense.det_export import run_exported

    detector, output, _ = trained
    folder = detector.export(str(output / "best_model"), tmp_path / "deploy", (64, 96))
    assert {path.name for path in folder.iterdir()} == {
        "inference.json",
        "inference.pdiparams",
        "infer_cfg.yml",
    }
    random = np.random.default_rng(1)
    inputs = {
        "image": random.standard_normal([1, 3, 64, 96], np.float32),
        "im_shape": np.array([[64, 80]], np.float32),
        "scale_factor": np.array([[1.6, 1.6]], np.float32),
    }
    detector = detector._loaded("test", str(output / "best_model"))
    with paddle.no_grad():
        wanted = detector.model({name: paddle.to_tensor(array) for name, array in inputs.items()})
    boxes, number, masks = run_exported(folder, inputs)
    assert number.tolist() == [len(boxes)]
    assert len(boxes) == len(wanted["bbox"]) + 1
    apart = np.abs(wanted["bbox"].numpy()[:, None] - boxes[None, :-1]).max(-1)
    assert apart.min(1).max() < 1e-3
    assert apart.min(0).max() < 1e-3
    nearest = apart.argmin(1)
    assert (wanted["mask"].numpy() != masks[nearest]).mean() < 1e-3


@pytest.mark.slow
def test_sizes_stay_open_where_the_backbone_has_no_windows(data: Path, tmp_path: Path):
    from passl_sot.dense.det_export import run_exported

    tiny = "{embed_dim: [8, 8, 16, 16], depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2]}"
    overrides = ["PasslSotPyramid.model=stvit_small", f"PasslSotPyramid.settings={tiny}"]
    detector = Detection(write_config(tmp_path, data), overrides)
    paddle.save(detector.build().state_dict(), str(tmp_path / "weights.pdparams"))
    folder = detector.export(str(tmp_path / "weights"), tmp_path / "deploy", None)
    for height, width in ((64, 160), (160, 64)):
        inputs = {name: array.numpy() for name, array in detector.example(height, width).items()}
        assert run_exported(folder, inputs)[2].shape[1:] == (height, width)


def test_training_goes_on_from_a_snapshot_and_keeps_the_best(trained, tmp_path: Path):
    detector, output, metrics = trained
    (tmp_path / "best.json").write_text(json.dumps({**metrics, "box_ap": 0.99}))
    for suffix in (".pdparams", ".pdopt"):
        (tmp_path / f"0{suffix}").write_bytes((output / f"0{suffix}").read_bytes())
    found = detector.train(tmp_path, "auto", seed=0)
    assert found["box_ap"] == 0.99
    assert (tmp_path / "model_final.pdparams").exists()
    assert not (tmp_path / "best_model.pdparams").exists()
    for resume in ("auto", str(output / "model_final")):
        with pytest.raises(UserError, match=r"model_final is after all 2 epochs"):
            detector.train(tmp_path, resume, seed=0)
    with pytest.raises(UserError, match=r"can't resume: there is no .*nowhere.pdparams"):
        detector.train(tmp_path, str(tmp_path / "nowhere"), seed=0)


def test_what_cannot_be_exported_is_said_before(trained, tmp_path: Path):
    detector, output, _ = trained
    with pytest.raises(UserError, match=r"Paddle2ONNX 2\.1 has no generate_proposals"):
        detector.export(str(output / "best_model"), tmp_path, (64, 96), onnx=True)
    with pytest.raises(UserError, match=r"takes one size of images, name it by --size"):
        detector.export(str(output / "best_model"), tmp_path, None)
    with pytest.raises(UserError, match=r"whole 32 pixels, got 60x96; the nearest are 64x96"):
        detector.export(str(output / "best_model"), tmp_path, (60, 96))
    assert not list(tmp_path.iterdir())


def test_weights_of_another_detector_are_refused(trained, tmp_path: Path):
    detector, output, _ = trained
    other = Detection(detector.path, ["FPN.out_channel=8"])
    with pytest.raises(UserError, match=r"isn't of the model in .*: it lacks, or has in another shape"):
        other.evaluate(str(output / "best_model"))


@pytest.mark.parametrize(
    ("sizes", "empty"), [(SIZES, (0, 1, 2)), (((1, 1), (3, 150), (150, 3), (37, 53)), ())]
)
def test_images_without_objects_and_of_odd_sizes_are_trained_on(sizes, empty, tmp_path: Path):
    write_coco(tmp_path / "data", sizes, empty=empty)
    overrides = ["TrainDataset.allow_empty=true", "epoch=1"]
    for head in HEADS:
        detector = Detection(write_config(tmp_path, tmp_path / "data", head), overrides)
        assert detector.train(tmp_path / head, None, seed=0)["box_ap"] >= 0


@pytest.mark.slow
def test_a_few_shapes_are_learned(data: Path, tmp_path: Path):
    detector = Detection(write_config(tmp_path, data), ["epoch=40", "snapshot_epoch=40", "log_iter=40"])
    metrics = detector.train(tmp_path / "output", None, seed=0)
    assert metrics["box_ap50"] > 0.5
    assert metrics["mask_ap50"] > 0.5


@pytest.mark.slow
def test_two_processes_train_one_model(data: Path, tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys; from pathlib import Path; from passl_sot.dense.detection import Detection\n"
        "from passl_sot.engine.distributed import start\n"
        "start('auto')  # as the command does\n"
        "folder = Path(sys.argv[1])\n"
        "overrides = ['TrainReader.batch_size=1', 'TrainDataset.allow_empty=true', 'epoch=1']\n"
        "detector = Detection(folder / 'mask_rcnn.yaml', overrides)\n"
        "print(detector.train(folder / 'output', None, seed=0))\n"
    )
    write_config(tmp_path, data)
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    path = os.pathsep.join([str(BASES.parents[1]), *sys.path])
    subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (tmp_path / "output" / "model_final.pdparams").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("RPNHead.anchor_generator.stride=[4]", "did you mean 'RPNHead.anchor_generator.strides'"),
        ("+FPN.out_chanel=8", "FPN.out_chanel: FPN takes no such setting; did you mean 'out_channel'"),
        ("+TrainReader.batchsize=8", "a reader takes no such setting; did you mean 'batch_size'"),
        ("+epochs=8", "PaddleDetection has no such class or option; did you mean 'epoch'"),
        ("MaskRCNN.neck=FPM", "PaddleDetection has no 'FPM'; did you mean 'FPN'"),
        ("architecture=MaskRCN", "PaddleDetection has no 'MaskRCN'; did you mean 'MaskRCNN'"),
        ("TrainDataset.name=COCODataset", "did you mean 'COCODataSet'"),
        ("metric=VOC", "metric: only COCO is driven here"),
        ("TestReader.sample_transforms=[{NormalizeImage: {}}]", "mean and std are needed"),
        ("EvalReader.sample_transforms=[{Decodes: {}}]", "no such transform; did you mean 'Decode'"),
    ],
)
def test_a_wrong_setting_names_the_nearest(data: Path, tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        Detection(write_config(tmp_path, data), [override])
    assert message in str(caught.value)


def test_faults_of_bases_say_where(tmp_path: Path):
    config = tmp_path / "detector.yaml"
    config.write_text("_BASE_: [none.yaml]\n")
    with pytest.raises(ConfigError, match=rf"detector.yaml:1: _BASE_: there is no {tmp_path}/none.yaml"):
        Detection(config)
    config.write_text("_BASE_: [detector.yaml]\n")
    with pytest.raises(ConfigError, match="is its own base"):
        Detection(config)
    config.write_text("epoch: 3\n")
    with pytest.raises(ConfigError, match="architecture: this is needed"):
        Detection(config)


def test_keys_of_a_class_that_the_file_lacks_can_be_set(data: Path, tmp_path: Path):
    config = write_config(tmp_path, data)
    detector = Detection(config, ["FPN.norm_type=gn", "classwise=true"])
    assert any("fpn" in name and "norm" in name for name, _ in detector.build().named_parameters())
    # Nothing of it is left for the next detector of the process.
    plain = Detection(config).build()
    assert not any("fpn" in name and "norm" in name for name, _ in plain.named_parameters())


def test_a_wrong_model_names_the_nearest(data: Path, tmp_path: Path):
    detector = Detection(write_config(tmp_path, data), ["PasslSotPyramid.model=swin_tinny"])
    with pytest.raises(UserError, match="swin_tiny"):
        detector.build()


def test_missing_data_names_the_key_and_the_path(data: Path, tmp_path: Path):
    detector = Detection(write_config(tmp_path, data), ["TrainDataset.image_dir=pictures"])
    with pytest.raises(ConfigError, match=rf"TrainDataset.image_dir: there is no {data}/pictures"):
        detector.train(tmp_path / "output", None, seed=0)
    detector = Detection(write_config(tmp_path, tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"EvalDataset.dataset_dir: there is no .*nowhere"):
        detector.evaluate("x")


def test_faults_of_annotations_say_where(data: Path, tmp_path: Path):
    write_coco(tmp_path / "data")
    path = tmp_path / "data" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][2]["category_id"] = 4
    path.write_text(json.dumps(content))
    detector = Detection(write_config(tmp_path, tmp_path / "data"))
    message = r"TrainDataset.anno_path: .*instances.json: the annotation with id 3 has category_id 4"
    with pytest.raises(UserError, match=message):
        detector.train(tmp_path / "output", None, seed=0)
    detector = Detection(write_config(tmp_path, data), ["num_classes=80"])
    with pytest.raises(UserError, match=r"num_classes is 80, and .* has 2 categories: write num_classes: 2"):
        detector.train(tmp_path / "output", None, seed=0)


def test_more_classes_than_a_byte_holds(tmp_path: Path):
    write_coco(tmp_path / "data", SIZES)
    path = tmp_path / "data" / "instances.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": f"kind {number}"} for number in range(400)]
    for annotation in content["annotations"]:
        annotation["category_id"] += 300
    path.write_text(json.dumps(content))
    config = write_config(tmp_path, tmp_path / "data")
    overrides = ["num_classes=400", "epoch=1", "BBoxPostProcess.nms.score_threshold=0.0"]
    detector = Detection(config, overrides)
    detector.train(tmp_path / "output", None, seed=0)
    image = tmp_path / "data" / "images" / "0.png"
    files = detector.predict(str(tmp_path / "output" / "model_final"), [image], tmp_path / "pictures")
    rows = json.loads(files[-1].read_text())
    assert rows
    assert max(row["category_id"] for row in rows) > 255


def test_the_suites_tags_are_read(data: Path, tmp_path: Path):
    config = write_config(tmp_path, data)
    text = config.read_text()
    tagged = text.replace("{name: LinearWarmup, start_factor", "!LinearWarmup {start_factor")
    assert tagged != text
    plain = Detection(config)._tree
    config.write_text(tagged)
    assert Detection(config)._tree == plain


def test_damaged_images_are_not_filled_silently():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(("name", "tables"), [("swin_tiny", 12), ("stvit_small", 0)])
def test_norms_biases_and_position_tables_are_not_decayed(name: str, tables: int):
    from ppdet.core import workspace

    model = Detection(BASES / f"mask_rcnn_{name}_1x_coco.yaml").build()
    free, decayed = workspace.create("OptimizerBuilder")(1e-4, model)._param_groups
    assert (free["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    large = [names[id(parameter)] for parameter in free["params"] if parameter.ndim > 1]
    assert len(large) == tables
    assert all(name.endswith("relative_position_bias_table") for name in large)
    count = sum(not parameter.stop_gradient for parameter in model.parameters())
    assert len(free["params"]) + len(decayed["params"]) == count


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(BASES.glob("*_coco.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_build(path: Path):
    detector = Detection(path)
    assert detector.meta["recipe"]
    assert detector.meta["published"]
    backbone = path.stem.split("rcnn_")[1].rsplit("_", 2)[0]
    assert detector._tree["PasslSotPyramid"]["model"] == backbone
    if path.stem == "cascade_mask_rcnn_stvit_small_3x_coco":
        model = detector.build()
        model.eval()
        with paddle.no_grad():
            found = model(detector.example(64, 96))
        assert found["mask"].shape[1:] == [64, 96]
