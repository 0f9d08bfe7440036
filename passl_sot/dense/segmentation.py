"""Semantic segmentation, driven through PaddleSeg's trainer, evaluation and inference."""

import inspect
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.utils import unique_name
from PIL import Image

from passl_sot.config import UserError
from passl_sot.config.yaml_text import dump_yaml
from passl_sot.dense.files import load_into, refuse_same_names
from passl_sot.dense.seg_config import check_data, read_segmentation
from passl_sot.dense.seg_export import export_segmenter
from passl_sot.dense.seg_repairs import drop_unused, repair
from passl_sot.engine.distributed import World, start
from passl_sot.utils.logger import get_logger
from passl_sot.utils.suites import check_suite

# Of the picture in an overlay; the rest is the color of the class.
_IMAGE_WEIGHT = 0.6
_BEST, _BEFORE = "best_model", "best_before"  # folders of the best weights, and of those before a resumption


class Segmentation:
    """A segmenter that a YAML file of PaddleSeg describes.

    Args:
        config: The file; see `seg_config` for the sections.
        overrides: "a.b.0.c=value" with the value in YAML; "+a.b=value" adds a key.

    Raises:
        MissingExtraError: PaddleSeg isn't installed.
        ConfigError: Everything that is wrong with the file.
    """

    suite = "PaddleSeg"

    def __init__(self, config: Path, overrides: Sequence[str] = ()) -> None:
        check_suite("paddleseg")
        repair()
        # Its name becomes known to the suite, which must be there for that.
        import passl_sot.dense.semantic_fpn  # noqa: F401

        self.config = read_segmentation(config, overrides)
        self._parts = self._make_builder()

    @property
    def meta(self) -> dict[str, Any]:
        """The file's section `meta`: the recipe's source, and what was published for it."""
        return self.config.meta

    def _make_builder(self) -> Any:
        from paddleseg.cvlibs import Config, SegBuilder

        sections = self.config.sections

        class Resolved(Config):
            """The suite's object for a file that was read already."""

            @classmethod
            def _parse_from_yaml(cls, path: str, *_: Any, **__: Any) -> dict[str, Any]:
                return sections

        with self._explained():
            return SegBuilder(Resolved(str(self.config.path)))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes the suite's complaints about a file the user's to mend; the innermost counts."""
        from paddleseg.utils import logger

        # It shows each section that it builds; `config.yaml` of a run has them all.
        logger.log_level = 1
        try:
            yield
        except (RuntimeError, AssertionError) as error:
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
                if isinstance(cause, UserError):
                    raise cause from None
            words = str(cause) or type(cause).__name__
            raise UserError(f"{self.config.path}: PaddleSeg refuses it: {words}") from error
        finally:
            logger.log_level = 2 if _talks() else 1

    def build(self) -> nn.Layer:
        """The model, as the file starts it; no data is needed."""
        with self._explained():
            model = self._parts.model
        drop_unused(model)
        return model

    def example(self, height: int, width: int) -> list[paddle.Tensor]:
        """The input of one image: `[1, channels, height, width]`."""
        section = self.config.sections["train_dataset"]
        return [paddle.zeros([1, section.get("img_channels", 3), height, width])]

    def train(self, output: Path, resume: str | None, seed: int) -> dict[str, float]:
        """Trains, and evaluates the best weights.

        Args:
            output: Gets `config.yaml`, `best_model/model.pdparams`, and checkpoints: folders `iter_N`.
            resume: A folder `iter_N`, or "auto" for the newest in `output`, or for none where there is none.
            seed: Of Paddle, NumPy and Python.

        Returns:
            As `evaluate`, of the best weights.

        Raises:
            ConfigError: The data isn't there.
            UserError: There is nothing to go on from, or nothing left to do.
        """
        from paddleseg.utils import set_seed

        check_data(self.config, "train_dataset", "val_dataset")
        world = start("auto")
        # The suite would delete a file of that name.
        if output.exists() and not output.is_dir():
            raise UserError(f"{output} is a file: name a folder to write to")
        resumed = _checkpoint(output, resume, self.config.sections["iters"])
        set_seed(seed)
        output.mkdir(parents=True, exist_ok=True)
        if world.is_main:
            # So that the run can be repeated by this file alone.
            everything = {**self.config.sections, "train": self.config.options, "meta": self.config.meta}
            (output / "config.yaml").write_text(dump_yaml(everything), encoding="utf-8")
            # The suite begins to look for the best anew.
            if resumed and (output / _BEST).is_dir() and not (output / _BEFORE).is_dir():
                shutil.copytree(output / _BEST, output / _BEFORE)
        # The optimizer's state is stored by names that count what was made before.
        with unique_name.guard():
            self._parts = self._make_builder()
            model = self.build()
            if resumed:
                self._read(resumed / "model.pdparams", model)
            # Of each process its own, for dropped paths and augmentation; the models are made alike below.
            set_seed(seed + world.rank)
            try:
                self._train(model, output, resumed)
            except IndexError as error:
                if "label value" not in str(error):
                    raise
                raise UserError(f"a label file of train_dataset has a class too many: {error}") from error
        world.wait_for_all()  # the first may still be writing what all read now
        return self._best_of(output, world)

    def _best_of(self, output: Path, world: World) -> dict[str, float]:
        """The metrics of the best weights, which are those from before a resumption where they are better."""
        metrics = self.evaluate(str(output / _BEST))
        if (output / _BEFORE).is_dir():
            before = self.evaluate(str(output / _BEFORE))
            world.wait_for_all()
            worse = _BEFORE
            if before["miou"] > metrics["miou"]:
                metrics = before
                worse = _BEST
            if world.is_main:
                shutil.rmtree(output / worse)
                if worse == _BEST:
                    (output / _BEFORE).rename(output / _BEST)
        return metrics

    def _train(self, model: nn.Layer, output: Path, resumed: Path | None) -> None:
        from paddleseg import core

        sections = self.config.sections
        with self._explained():
            data = self._parts.train_dataset
            val_data = self._parts.val_dataset
            optimizer = self._parts.optimizer
            losses = self._parts.loss
        # Without a whole batch the suite's loop never ends.
        self._check_batches(len(data))
        core.train(
            model,
            data,
            val_data,
            optimizer,
            save_dir=str(output),
            resume_model=resumed and str(resumed),
            iters=sections["iters"],
            batch_size=sections["batch_size"],
            losses=losses,
            test_config=self._test_options(core.evaluate),
            to_static_training=sections.get("to_static_training", False),
            **self.config.options,
        )

    def _check_batches(self, images: int) -> None:
        """The suite would go round for ever without a whole batch."""
        wanted = self.config.sections["batch_size"] * paddle.distributed.get_world_size()
        if images < wanted:
            raise UserError(
                f"train_dataset has {images} images, fewer than the {wanted} of one step: lower batch_size"
            )

    def _test_options(self, function: Any) -> dict[str, Any]:
        """The arguments that `test_config` has for a function of the suite."""
        known = inspect.signature(function).parameters
        options = {k: v for k, v in (self.config.sections.get("test_config") or {}).items() if k in known}
        # Its table of classes goes to standard output.
        if "print_detail" in known:
            options["print_detail"] = _talks()
        return options

    def evaluate(self, weights: str) -> dict[str, float]:
        """Evaluates weights on `val_dataset`, by `test_config`.

        Args:
            weights: A `.pdparams` file, or a folder with `model.pdparams`.

        Returns:
            `miou`, the mean over all classes of intersection over union, where a class that neither labels
            nor predictions have counts as 0, and `accuracy`, the fraction of right pixels; both in [0, 1].
        """
        from paddleseg import core

        check_data(self.config, "val_dataset")
        model = self._loaded(weights)
        with self._explained():
            data = self._parts.val_dataset
        workers = self.config.options.get("num_workers", 0)
        miou, accuracy, *_ = core.evaluate(
            model, data, num_workers=workers, **self._test_options(core.evaluate)
        )
        return {"miou": float(miou), "accuracy": float(accuracy)}

    def _loaded(self, weights: str) -> nn.Layer:
        model = self.build()
        path = Path(weights)
        # The folders that training writes may be named as they are.
        if path.is_dir():
            path /= "model.pdparams"
        self._read(path, model)
        model.eval()
        return model

    def _read(self, path: Path, model: nn.Layer) -> None:
        """Fills a model; a UserError where the file isn't of it."""
        if not path.is_file():
            raise UserError(f"there are no weights {path}: name a .pdparams file, or a folder that has one")
        load_into(model, path, self.config.path)

    def predict(self, weights: str, images: Sequence[Path], output: Path) -> list[Path]:
        """Predicts the classes of all pixels.

        Args:
            weights: A `.pdparams` file, or a folder with `model.pdparams`.
            images: Files.
            output: Gets for each image `NAME.png`, each pixel's class as a number (8 bits and colors; for
                more than 256 classes 16 bits), and `NAME_overlay.jpg`, the colors over the image.

        Returns:
            The files, in the images' order.
        """
        import cv2
        from paddleseg.core import infer
        from paddleseg.core.predict import preprocess
        from paddleseg.transforms import Compose
        from paddleseg.utils import visualize

        refuse_same_names([path.stem for path in images])
        model = self._loaded(weights)
        channels = self.config.sections["val_dataset"].get("img_channels", 3)
        with self._explained():
            transforms = Compose(self._parts.val_transforms, img_channels=channels)
        options = self.config.sections.get("test_config") or {}
        function = infer.aug_inference if options.get("aug_eval") else infer.inference
        output.mkdir(parents=True, exist_ok=True)
        files = []
        for path in images:
            picture = cv2.imread(str(path), transforms.read_flag)
            if picture is None:
                raise UserError(f"{path} is no image that OpenCV can read")
            data = preprocess(picture.astype("float32"), transforms)
            with paddle.no_grad():
                labels, logits = function(
                    model, data["img"], trans_info=data["trans_info"], **self._test_options(function)
                )
            colors = np.array(visualize.get_color_map_list(logits.shape[1]), np.uint8).reshape([-1, 3])
            files += _write(labels.numpy()[0, 0], picture, colors, output / path.stem)
        return files

    def export(
        self,
        weights: str,
        output: Path,
        size: tuple[int, int] | None,
        *,
        onnx: bool = False,
        logits: bool = False,
    ) -> Path:
        """Writes a folder for deployment; see `export_segmenter`.

        Args:
            weights: As of `evaluate`.
            output: The folder.
            size: The only height and width that the graph takes; None for any, where the backbone allows it.
            onnx: Whether to write `inference.onnx` too.
            logits: Whether the graph gives logits, rather than classes.
        """
        model = self._loaded(weights)
        transforms = self.config.sections["val_dataset"].get("transforms") or []
        example = self.example(*(size or (96, 128)))[0]
        return export_segmenter(
            model, transforms, output, example, open_size=size is None, onnx=onnx, logits=logits
        )


def _talks() -> bool:
    return get_logger().isEnabledFor(logging.INFO)


def _checkpoint(output: Path, resume: str | None, iters: int) -> Path | None:
    """The folder to go on from; a UserError where it holds no checkpoint, or the last one."""
    if resume is None:
        return None
    folder = Path(resume)
    if resume == "auto":
        found = [path for path in output.glob("iter_*") if path.name[5:].isdecimal()]
        if not found:
            return None
        folder = max(found, key=lambda path: int(path.name[5:]))
    number = folder.name.removeprefix("iter_")
    missing = [name for name in ("model.pdparams", "model.pdopt") if not (folder / name).is_file()]
    if missing or not number.isdecimal():
        lacks = " and ".join(missing) or "a name such as iter_1000"
        raise UserError(f"can't resume from {folder}: it lacks {lacks}; name a folder iter_N, or auto")
    if int(number) >= iters:
        raise UserError(f"{folder} is after all {iters} iterations: raise iters to train on")
    return folder


def _write(labels: np.ndarray, picture: np.ndarray, colors: np.ndarray, stem: Path) -> list[Path]:
    """The map of classes and the overlay; `picture` is `[H, W, 3]` in OpenCV's order, or `[H, W]`."""
    classes = stem.with_name(f"{stem.name}.png")
    # PNG has palettes of 8 bits only.
    if len(colors) <= 256:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(colors.ravel().tolist())
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    image.save(classes)
    overlay = stem.with_name(f"{stem.name}_overlay.jpg")
    # An image of one channel, whose overlay has colors all the same.
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, 2)
    mixed = _IMAGE_WEIGHT * picture[:, :, ::-1] + (1 - _IMAGE_WEIGHT) * colors[labels]
    Image.fromarray(mixed.round().astype(np.uint8)).save(overlay, quality=95)
    return [classes, overlay]
