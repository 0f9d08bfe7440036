"""Exported models in PaddleX, under names of their own, prepared to the pixel as here.

Runs in PaddleX's environment (paddlex 3.7), where this project need not be installed:

    from ppcls_tools.paddlex import load

    for result in load("exported/", engine="onnxruntime")(["a.jpg", "b.png"]):
        print(result["label_names"], result["scores"])

or `register("SoT")`, after which `paddlex.create_model("SoT", model_dir="exported/")` and pipelines know the
name. PaddleX need not be changed, but its table of names is internal to it and may move with a version.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

_ENGINES = ("paddle_static", "onnxruntime")
_FILTERS = {name: getattr(Image.Resampling, name) for name in ("NEAREST", "BILINEAR", "BICUBIC")}
_FILTERS["LANCZOS4"] = Image.Resampling.LANCZOS


def register(*names: str, several: bool = False) -> None:
    """Makes names of models known to this process's PaddleX.

    Args:
        names: As `Global.model_name` in the exports' `inference.yml`.
        several: They are of models for several labels an image.

    Raises:
        ValueError: PaddleX has a model of that name already.
        ImportError: There is no PaddleX here, or one that keeps its table elsewhere.
    """
    from paddlex.inference.models import bindings

    predictor = _predictors()[several]
    for name in names:
        there = bindings.try_get_binding(name, _ENGINES[0])
        if there is not None and there.predictor is not predictor:
            raise ValueError(
                f"PaddleX has a model {name} of its own: change Global.model_name in inference.yml, or use "
                "paddlex.create_model as it is"
            )
    bindings.register_predictor_binding_map(predictor, dict.fromkeys(_ENGINES, names))


def load(folder: str | Path, **options: Any) -> Any:
    """PaddleX's predictor of an exported folder, whose name is registered.

    Args:
        folder: Holds `inference.yml` and the files of the engine.
        options: Those of `paddlex.create_model`, such as `engine`, `device` and `topk`.
    """
    import paddlex

    card = yaml.safe_load((Path(folder) / "inference.yml").read_text(encoding="utf-8"))
    name = card["Global"]["model_name"]
    if "PreProcess" not in card:
        raise ValueError(
            f"{folder} can't be prepared by PaddleX; the first line of its inference.yml says why"
        )
    register(name, several="MultiLabelThreshOutput" in card["PostProcess"])
    return paddlex.create_model(model_name=name, model_dir=str(folder), **options)


@cache
def _predictors() -> dict[bool, type]:
    """PaddleX's predictors, with what it rounds and turns otherwise; for several labels and for one."""
    import cv2
    from paddlex.inference.models.image_classification import ClasRunnerPredictor
    from paddlex.inference.models.image_multilabel_classification.predictor import MLClasPredictor
    from paddlex.inference.utils.io import ImageReader

    def exact(base: type) -> type:
        def build(self: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            before, after = base._build(self)  # type: ignore[attr-defined]
            for step in self.config["PreProcess"]["transform_ops"]:
                for name, settings in step.items():
                    if name == "ResizeImage" and settings.get("resize_short"):
                        before["Resize"] = _Resize(settings["resize_short"], settings["interpolation"])
                    elif name == "CropImage":
                        before["Crop"] = _Crop(settings["size"])
            if not _turns(self.config):
                as_stored = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
                before["Read"]._img_reader = ImageReader(backend="opencv", flags=as_stored)
            return before, after

        return type(f"Exact{base.__name__}", (base,), {"_build": build})

    return {False: exact(ClasRunnerPredictor), True: exact(MLClasPredictor)}


def _turns(card: dict[str, Any]) -> bool:
    """Whether images are turned upright by their EXIF orientation, as PaddleX always does."""
    header = card.get("passl_sot", {}).get("header", {})
    return header.get("preprocessing", {}).get("apply_exif", True)


class _Resize:
    """The shorter side to a length, the longer one rounded down (PaddleX rounds), as torchvision does."""

    def __init__(self, short: int, interpolation: str):
        self.short = short
        self.filter = _FILTERS[interpolation.upper()]

    def __call__(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        return [self._resize(image) for image in imgs]

    def _resize(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        size = [max(self.short, int(self.short * side / min(height, width))) for side in (width, height)]
        return np.asarray(Image.fromarray(image).resize((size[0], size[1]), self.filter))


class _Crop:
    """The center, its corner rounded to even (PaddleX rounds down), black where the image is smaller."""

    def __init__(self, size: int | list[int]):
        width, height = (size, size) if isinstance(size, int) else size
        self.size = (height, width)

    def __call__(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        return [self._crop(image) for image in imgs]

    def _crop(self, image: np.ndarray) -> np.ndarray:
        missing = [max(0, wanted - side) for wanted, side in zip(self.size, image.shape, strict=False)]
        image = np.pad(image, [(gap // 2, (gap + 1) // 2) for gap in missing] + [(0, 0)])
        top, left = (round((side - wanted) / 2) for wanted, side in zip(self.size, image.shape, strict=False))
        return image[top : top + self.size[0], left : left + self.size[1]]
