"""Detection of objects with masks, driven through PaddleDetection's trainer, readers and metrics.

The suite keeps its settings in one table of the process. Each method here sets it anew, so that several
detectors can be used in one process, one after the other.
"""

import copy
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from PIL import Image, ImageOps

from passl_sot.config import UserError
from passl_sot.config.yaml_text import dump_yaml
from passl_sot.dense.det_config import check_data, read_detection
from passl_sot.dense.det_export import export_detector
from passl_sot.dense.det_repairs import repair
from passl_sot.dense.det_run import aside, find_snapshot, joined, watch
from passl_sot.dense.files import load_into, refuse_same_names
from passl_sot.engine.distributed import World
from passl_sot.utils.logger import get_logger
from passl_sot.utils.suites import check_suite

_METRICS = ("box_ap", "box_ap50", "mask_ap", "mask_ap50")
_COCO_CLASSES = 80
# What the suite's reader of folders takes; it passes others over in silence.
_READ = (".jpg", ".jpeg", ".png", ".bmp")
log = get_logger()


class Detection:
    """A detector that a YAML file of PaddleDetection describes.

    Args:
        config: The file, with `_BASE_`; its section `meta` is not for the suite.
        overrides: "a.b.0.c=value" with the value in YAML.

    Attributes:
        meta: The recipe's source, and what was published for it.

    Raises:
        MissingExtraError: PaddleDetection isn't installed.
        ConfigError: Everything that is wrong with the file.
    """

    suite = "PaddleDetection"

    def __init__(self, config: Path, overrides: Sequence[str] = ()) -> None:
        check_suite("ppdet")
        repair()
        self.path = config
        self._tree, self.meta = read_detection(config, overrides)

    def _settings(self, **more: Any) -> Any:
        """The suite's table, with this file's settings and nothing of another's."""
        from ppdet.core import workspace
        from ppdet.core.config.schema import SchemaDict

        # A file's settings would else stay for the next: the suite merges into what is there.
        table = workspace.global_config
        for name, value in list(table.items()):
            if isinstance(value, SchemaDict):
                # Classes stay registered, with their defaults again.
                value.clear()
            else:
                del table[name]
        settings = copy.deepcopy(self._tree) | {"filename": self.path.stem} | more
        # The suite fails where it is told to use a GPU that isn't there.
        if settings.get("use_gpu") is None:
            settings["use_gpu"] = bool(paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count())
        workspace.merge_config({"use_npu": False, "use_mlu": False, "use_xpu": False, **settings})
        return table

    @aside()
    def build(self) -> nn.Layer:
        """The model, as the file starts it; no data is needed."""
        from ppdet.core import workspace

        return workspace.create(self._settings()["architecture"])

    def example(self, height: int, width: int) -> dict[str, paddle.Tensor]:
        """The input of one image: `image` `[1, 3, height, width]`, its size, and how it was scaled."""
        return {
            "image": paddle.zeros([1, 3, height, width]),
            "im_shape": paddle.to_tensor([[float(height), float(width)]]),
            "scale_factor": paddle.ones([1, 2]),
        }

    @aside()
    def train(self, output: Path, resume: str | None, seed: int) -> dict[str, float]:
        """Trains, and evaluates every `snapshot_epoch` epochs; process 0 alone evaluates and writes.

        Args:
            output: Gets `config.yaml`, `best_model`, `model_final` and numbered snapshots, each `.pdparams`
                with `.pdopt`, and `best.json`.
            resume: A snapshot, or "auto" for the newest in `output`, or for none where there is none.
                Optimizer, schedule and epoch go on; the order of images begins anew.
            seed: Of weights, order and augmentation.

        Returns:
            As `evaluate`, of the best epoch by box AP; on other processes than the first zeros.

        Raises:
            UserError: The data or the snapshot isn't there, or doesn't fit.
        """
        check_data(self._tree, "TrainDataset", "EvalDataset")
        # Before processes join: a wrong name is one message of each, not a hanging run.
        snapshot = find_snapshot(output, resume)
        world = joined()
        # Of each process its own, for augmentation; Paddle's is one, for weights that are alike.
        random.seed(seed + world.rank)
        np.random.seed(seed + world.rank)
        paddle.seed(seed)
        (output / "evaluation").mkdir(parents=True, exist_ok=True)
        if world.is_main:
            text = dump_yaml({**self._tree, "meta": self.meta})
            (output / "config.yaml").write_text(text, encoding="utf-8")
        # The optimizer's state is stored by Paddle's own names, which count from the start here.
        with paddle.utils.unique_name.guard():
            metrics = self._run(world, output, snapshot)
        if world.is_main and not metrics:
            log.warning(
                "no evaluation found any object: there is no best_model, model_final is the last epoch's"
            )
        return metrics or dict.fromkeys(_METRICS, 0.0)

    def _run(self, world: World, output: Path, snapshot: Path | None) -> dict[str, float]:
        # The suite writes to a folder by the config's name below `save_dir`.
        places = {"save_dir": str(output.parent), "filename": output.name}
        trainer = self._trainer("train", output_eval=str(output / "evaluation"), **places)
        # The suite only warns, and ends each epoch at once.
        if len(trainer.loader) < 1:
            size = self._tree["TrainReader"].get("batch_size", 1) * world.size
            raise UserError(f"TrainDataset has fewer images than one step takes ({size}): lower batch_size")
        watcher = watch(trainer, world, output / "best.json")
        trainer.register_callbacks([watcher])
        if snapshot:
            trainer.resume_weights(str(snapshot))
            if trainer.start_epoch >= trainer.end_epoch:
                raise UserError(
                    f"{snapshot} is after all {trainer.end_epoch} epochs: raise epoch to train on"
                )
            watcher.recall()
        elif self._tree.get("pretrain_weights"):
            trainer.load_weights(self._tree["pretrain_weights"])
        trainer.train(validate=True)
        return watcher.metrics

    @aside()
    def evaluate(self, weights: str) -> dict[str, float]:
        """Evaluates weights on `EvalDataset`, as COCO does.

        Args:
            weights: A `.pdparams` file of the detector.

        Returns:
            `box_ap`, `box_ap50`, `mask_ap`, `mask_ap50`: in [0, 1], or -1 where no image has an object.
        """
        check_data(self._tree, "EvalDataset")
        # COCO's metric leaves its results as files, beside nothing that a user named.
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._loaded("eval", weights, output_eval=folder)
            watcher = watch(trainer, World(), None)
            trainer.register_callbacks([watcher])
            with paddle.no_grad():
                trainer.evaluate()
        return watcher.metrics or dict.fromkeys(_METRICS, 0.0)

    @aside()
    def predict(
        self, weights: str, images: Sequence[Path], output: Path, threshold: float = 0.5
    ) -> list[Path]:
        """Finds objects.

        Args:
            weights: A `.pdparams` file of the detector.
            images: Files.
            output: Gets the images with boxes and masks, by their names, and `results.json`: a list in the
                form of COCO's results, with `file_name`.
            threshold: Of the score, for what is drawn; the list has all.

        Returns:
            The pictures, in the images' order, and the list.
        """
        from ppdet.core import workspace
        from ppdet.data.source.category import get_categories
        from ppdet.metrics import get_infer_results

        # All before the first is predicted: a fault in the last would cost all others.
        _check_images(images, output)
        self._check_names()
        trainer = self._loaded("test", weights)
        numbers, categories = get_categories("COCO", trainer.dataset.get_anno())
        trainer.dataset.set_images([str(path) for path in images])
        output.mkdir(parents=True, exist_ok=True)
        results: list[dict[str, Any]] = []
        files: list[Path] = []
        # Not the suite's own method: it keeps the masks of all images in memory, and fails with NumPy 2.4.
        for batch in workspace.create("TestReader")(trainer.dataset, 0):
            with paddle.no_grad():
                found = {key: value.numpy() for key, value in trainer.model(batch).items()}
            # By these numbers the suite's metrics tell images apart.
            found["im_id"] = batch["im_id"].numpy()
            parts = get_infer_results(found, numbers)
            for number in found["im_id"].ravel():
                path = Path(trainer.dataset.get_imid2path()[int(number)])
                # Where nothing is found, the suite gives a box of score 0.
                here = {
                    key: [row for row in part if row["image_id"] == number and row["score"] > 0]
                    for key, part in parts.items()
                }
                files.append(output / path.name)
                _draw(path, here, categories, threshold).save(files[-1])
                results += _joined(here, path)
        (output / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return [*files, output / "results.json"]

    @aside()
    def export(
        self,
        weights: str,
        output: Path,
        size: tuple[int, int] | None,
        *,
        onnx: bool = False,
        logits: bool = False,
    ) -> Path:
        """Writes a folder for deployment; see `export_detector`.

        Args:
            weights: As of `evaluate`.
            output: The folder.
            size: The only height and width that the graph takes; None for any, where the backbone allows it.
            onnx: Refused: Paddle2ONNX lacks operators of detectors.
            logits: Refused: a detector has none.
        """
        if onnx:
            raise UserError(
                "a detector can't be written as ONNX: Paddle2ONNX 2.1 has no generate_proposals and no "
                "distribute_fpn_proposals; export without onnx, for Paddle Inference"
            )
        if logits:
            raise UserError("logits are of segmenters; a detector gives boxes, scores and masks")
        self._check_names()
        trainer = self._loaded("test", weights, export_onnx=True)
        return export_detector(trainer, output, size)

    def _check_names(self) -> None:
        """Where there is no annotation file, the suite takes COCO's categories for ours."""
        if self._tree["num_classes"] != _COCO_CLASSES:
            check_data({"TestDataset": {**self._tree["TestDataset"], "image_dir": None}}, "TestDataset")

    def _trainer(self, mode: str, **more: Any) -> Any:
        from ppdet.engine import Trainer

        settings = self._settings(**more)
        section = {"train": "TrainDataset", "eval": "EvalDataset"}.get(mode)
        try:
            trainer = Trainer(settings, mode)
        except (KeyError, AssertionError) as error:
            if section:
                _explain(self._tree[section], section, error)
            raise
        # Else the first category too many fails deep inside a kernel.
        classes = getattr(trainer.dataset, "catid2clsid", None)
        wanted = self._tree["num_classes"]
        if classes is not None and len(classes) != wanted:
            raise UserError(
                f"{self.path}: num_classes is {wanted}, and {trainer.dataset.get_anno()} has "
                f"{len(classes)} categories: write num_classes: {len(classes)}"
            )
        return trainer

    def _loaded(self, mode: str, weights: str, **more: Any) -> Any:
        trainer = self._trainer(mode, **more)
        load_into(trainer.model, weights, self.path)
        trainer.model.eval()
        return trainer


def _check_images(images: Sequence[Path], output: Path) -> None:
    refuse_same_names([path.name for path in images])
    for path in images:
        if path.suffix.lower() not in _READ:
            raise UserError(f"{path}: PaddleDetection reads {', '.join(_READ)} alone")
        if path.parent.resolve() == output.resolve():
            raise UserError(f"{path} would be replaced by its picture: write to another folder")
        try:
            with Image.open(path) as file:
                file.load()
        except FileNotFoundError:
            raise UserError(f"there is no image {path}") from None
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path} is no image that can be read: {error}") from None


def _explain(settings: dict[str, Any], section: str, error: Exception) -> None:
    """A UserError for faults of a COCO file that the suite ends at with a bare KeyError or assertion."""
    path = Path(settings.get("dataset_dir") or "") / settings["anno_path"]
    content = json.loads(path.read_text(encoding="utf-8"))
    known = {category["id"] for category in content.get("categories", [])}
    for item in content.get("annotations", []):
        if item.get("category_id") not in known:
            raise UserError(
                f"{section}.anno_path: {path}: the annotation with id {item.get('id')} has category_id "
                f"{item.get('category_id')}, which is none of the {len(known)} categories in the file"
            ) from error
    if "coco record" in str(error):
        raise UserError(
            f"{section}: {path} has no image with objects whose file is in "
            f"{Path(settings.get('dataset_dir') or '') / str(settings.get('image_dir'))}"
        ) from error


def _draw(path: Path, found: dict[str, list], categories: dict[int, str], threshold: float) -> Image.Image:
    from ppdet.utils.visualizer import visualize_results

    with Image.open(path) as file:
        # As the suite's reader turns it.
        image = ImageOps.exif_transpose(file).convert("RGB")
    boxes = found.get("bbox", [])
    number = boxes[0]["image_id"] if boxes else 0
    rest = (None, None, None)
    return visualize_results(image, boxes, found.get("mask"), *rest, number, categories, threshold)


def _joined(found: dict[str, list], path: Path) -> list[dict[str, Any]]:
    """Boxes with their masks, as COCO's tools read them."""
    rows = []
    for index, box in enumerate(found.get("bbox", [])):
        row = {"file_name": path.name, **box}
        if "mask" in found:
            row["segmentation"] = found["mask"][index]["segmentation"]
        rows.append(row)
    return rows
