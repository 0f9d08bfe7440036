"""Transforms of this project as PaddleClas's operations on images."""

from collections.abc import Mapping, Sequence
from typing import Any

from passl_sot.data.transforms.base import TRANSFORMS
from ppcls_tools.writing import Writing

Node = Mapping[str, Any]


def operations(
    writing: Writing, at: str, transforms: Sequence[Node], batch: Sequence[Node], apply_exif: bool
) -> list[dict[str, Any]]:
    """`transform_ops` of a dataset at `at`: its transforms and, in the same order, those of batches."""
    # OpenCV turns images by EXIF, Pillow does not.
    decode = {"to_rgb": True, "channel_first": False, "backend": "cv2" if apply_exif else "pil"}
    ops: list[dict[str, Any]] = [{"DecodeImage": decode}]
    mixed = False
    places = [(f"{at}.dataset.transforms.{i}", node) for i, node in enumerate(transforms)]
    places += [(f"{at}.dataset.batch_transforms.{i}", node) for i, node in enumerate(batch)]
    for path, node in places:
        if node["name"] == "Mixup":
            mixed = True
        elif mixed and node["name"] != "Normalize":
            writing.refuse(path, "PaddleClas mixes batches last: put Mixup behind it")
        elif node["name"] in _SAYABLE:
            ops += _SAYABLE[node["name"]](writing, path, TRANSFORMS.build(node))
        else:
            writing.refuse(path, f"PaddleClas has no operation like {node['name']}")
        if mixed and node["name"] == "Normalize":
            # Both are linear: only the rounding of mixed bytes differs.
            ops += _normalize(writing, path, TRANSFORMS.build(node))
            writing.note(path, "PaddleClas mixes normalized images, here bytes are mixed")
    return ops


def batch_operations(writing: Writing, at: str, batch: Sequence[Node]) -> list[dict[str, Any]]:
    """`batch_transform_ops`: Mixup and CutMix as two operations of which one is drawn."""
    for i, node in enumerate(batch):
        if node["name"] != "Mixup":
            continue
        path = f"{at}.dataset.batch_transforms.{i}"
        mixup = TRANSFORMS.build(node)
        writing.need(f"{path}.off_epoch", mixup.off_epoch, None, "it mixes to the end")
        smoothing = writing.experiment.loss.get("label_smoothing", 0.0)
        why = "its loss smooths mixed labels by loss.label_smoothing, which must be above 0"
        writing.need(f"{path}.label_smoothing", mixup.label_smoothing, smoothing or None, why)
        share = mixup.switch_prob
        if not mixup.mixup_alpha:
            share = 1.0
        elif not mixup.cutmix_alpha:
            share = 0.0
        parts = {
            "MixupOperator": {"alpha": mixup.mixup_alpha, "prob": round(mixup.prob * (1 - share), 9)},
            "CutmixOperator": {"alpha": mixup.cutmix_alpha, "prob": round(mixup.prob * share, 9)},
        }
        return [{"OpSampler": {name: part for name, part in parts.items() if part["prob"]}}]
    return []


def _width_height(size: Any) -> Any:
    return size if isinstance(size, int) else list(size)[::-1]


def _random_crop(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    node = {"size": _width_height(made.size), "scale": list(made.scale), "ratio": list(made.ratio)}
    resized = {"interpolation": made.interpolation, "backend": "pil", "use_log_aspect": True}
    return [{"RandCropImage": {**node, **resized}}]


def _flip(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    writing.need(f"{path}.prob", made.prob, 0.5, "it mirrors every other image")
    return [{"RandFlipImage": {"flip_code": 1}}]


def _rand_augment(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    size = writing.experiment.model.architecture.get("img_size", 224)
    shown = {"config_str": made.policy, "interpolation": made.interpolation, "img_size": size}
    return [{"TimmAutoAugment": shown}]


def _normalize(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    values = {"mean": list(made.mean), "std": list(made.std)}
    if len(made.mean) == 1:
        values = {key: value * 3 for key, value in values.items()}
    return [{"NormalizeImage": {"scale": "1.0/255.0", **values, "order": ""}}]


def _erase(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    writing.need(f"{path}.count", made.count, 1, "it erases one rectangle")
    area = {"EPSILON": made.prob, "sl": made.scale[0], "sh": made.scale[1], "r1": made.ratio}
    return [{"RandomErasing": {**area, "attempt": 10, "use_log_aspect": True, "mode": made.mode}}]


def _resize(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    shown: dict[str, Any] = {"resize_short": made.short_side}
    if made.output_hw is not None:
        shown = {"size": _width_height(made.output_hw)}
    else:
        writing.note(path, "PaddleClas rounds the longer side, here it is rounded down")
    return [{"ResizeImage": {**shown, "interpolation": made.interpolation, "backend": "pil"}}]


def _center_crop(writing: Writing, path: str, made: Any) -> list[dict[str, Any]]:
    height, width = made.output_hw
    return [{"CropImage": {"size": height if height == width else [width, height]}}]


_SAYABLE = {
    "CenterCrop": _center_crop,
    "Normalize": _normalize,
    "RandAugment": _rand_augment,
    "RandomErasing": _erase,
    "RandomHorizontalFlip": _flip,
    "RandomResizedCrop": _random_crop,
    "Resize": _resize,
}
