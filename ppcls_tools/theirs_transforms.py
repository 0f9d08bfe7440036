"""PaddleClas's operations on images as transforms of this project."""

from typing import Any

from ppcls_tools.reading import Reading, number

_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
_DRAWN_FILTERS = ("bilinear", "bicubic", "random")  # of operations that draw what they do
_EVEN_ASPECT = "PaddleClas draws the aspect ratio evenly, here its logarithm is (use_log_aspect)"
_BYTE = 1 / 255


def transforms(reading: Reading, at: str) -> tuple[list[dict[str, Any]], bool]:
    """A dataset's `transform_ops` as transforms, and whether EXIF's orientation is applied."""
    nodes = []
    apply_exif = True
    for name, path in reading.items(at):
        reading.take(path)
        if name == "DecodeImage":
            apply_exif = _decode(reading, path)
        elif name in _SAYABLE:
            nodes.append(_SAYABLE[name](reading, path))
        else:
            reading.take_all(path)
            reading.refuse(path, f"there is no transform like {name} here")
    return [node for node in nodes if node], apply_exif


def mixing(reading: Reading, at: str, classes: int, smoothing: float) -> list[dict[str, Any]]:
    """`batch_transform_ops` as `batch_transforms`: Mixup and CutMix, of which one is drawn for a batch."""
    found = reading.items(at)
    if [name for name, _ in found] == ["OpSampler"]:
        path = found[0][1]
        ops = {name: f"{path}.{name}" for name in ("MixupOperator", "CutmixOperator")}
        shares = {name: reading.number(f"{place}.prob", 0.0) for name, place in ops.items()}
    elif len(found) == 1:
        ops = dict(found)
        shares = dict.fromkeys(ops, 1.0)
    else:
        ops, shares = {}, {}
    known = {"MixupOperator": 1.0, "CutmixOperator": 0.2}
    if not found or not set(ops) <= set(known):
        for name, place in found:
            reading.take_all(place)
            reading.refuse(place, f"batches are mixed by Mixup and CutMix here, not by {name}")
        return []
    alphas = {name: reading.number(f"{place}.alpha", known[name]) for name, place in ops.items()}
    total = sum(shares.values())
    if not total:
        return []
    if not smoothing:
        # Without epsilon its loss takes a softmax of targets that are probabilities already.
        why = "without epsilon PaddleClas takes a softmax of mixed targets, for which there is no word here"
        reading.refuse("Loss.Train", why)
    used = {name: alphas[name] * (shares[name] > 0) for name in ops}
    return [
        {
            "name": "Mixup",
            "num_classes": classes,
            "mixup_alpha": used.get("MixupOperator", 0.0),
            "cutmix_alpha": used.get("CutmixOperator", 0.0),
            "prob": total,
            "switch_prob": round(shares.get("CutmixOperator", 0.0) / total, 9),
            "label_smoothing": smoothing,
        }
    ]


def _decode(reading: Reading, path: str) -> bool:
    reading.only(f"{path}.to_rgb", (True,), True, "images are RGB here")
    reading.only(f"{path}.to_np", (True,), True, "images are arrays here")
    reading.only(f"{path}.channel_first", (False,), False, "images are [H, W, 3] until they are normalized")
    # OpenCV turns images by EXIF, Pillow does not.
    return str(reading.take(f"{path}.backend", "cv2")).lower() == "cv2"


def _filter(reading: Reading, path: str, allowed: tuple[str, ...]) -> Any:
    backend = str(reading.take(f"{path}.backend", "cv2")).lower()
    name = reading.only(
        f"{path}.interpolation", allowed, "bilinear", f"filters here are {', '.join(allowed)}"
    )
    if backend != "pil":
        reading.note(
            path, "OpenCV resizes without antialiasing, here it is always Pillow's way (backend: pil)"
        )
    return name


def _height_width(size: Any) -> Any:
    return size if isinstance(size, int) else list(size)[::-1]  # [width, height] there


def _random_crop(reading: Reading, path: str) -> dict[str, Any]:
    node = {"name": "RandomResizedCrop", "size": _height_width(reading.take(f"{path}.size"))}
    for key in ("scale", "ratio"):
        value = reading.take(f"{path}.{key}")
        if value is not None:
            node[key] = [number(bound) for bound in value]
    node["interpolation"] = _filter(reading, path, _DRAWN_FILTERS)
    if not reading.take(f"{path}.use_log_aspect", False):
        reading.note(path, _EVEN_ASPECT)
    reading.only(f"{path}.progress_size", (None,), None, "sizes don't grow here")
    return node


def _flip(reading: Reading, path: str) -> dict[str, Any]:
    reading.only(f"{path}.flip_code", (1,), 1, "images are mirrored left to right here")
    return {"name": "RandomHorizontalFlip", "prob": 0.5}


def _rand_augment(reading: Reading, path: str) -> dict[str, Any] | None:
    policy = reading.take(f"{path}.config_str", "rand-m9-mstd0.5-inc1")
    why = f"filters are {', '.join(_DRAWN_FILTERS)}"
    filters = reading.only(f"{path}.interpolation", _DRAWN_FILTERS, "bicubic", why)
    reading.take(f"{path}.img_size")  # the image's own is taken here
    if reading.number(f"{path}.prob", 1.0) not in (0.0, 1.0):
        reading.refuse(f"{path}.prob", "every image is augmented here, or none")
    if not reading.number(f"{path}.prob", 1.0):
        return None
    if not str(policy).startswith("rand"):
        reading.refuse(f"{path}.config_str", f"{policy}: policies here begin with rand")
    return {"name": "RandAugment", "policy": policy, "interpolation": filters}


def _normalize(reading: Reading, path: str) -> dict[str, Any]:
    scale = reading.number(f"{path}.scale", _BYTE)
    if abs(scale / _BYTE - 1) > 1e-5:
        reading.refuse(f"{path}.scale", f"{scale:g}: bytes are divided by 255 here")
    # A dataset's images still are [H, W, 3] there.
    reading.only(f"{path}.order", ("", "hwc"), "chw", "write order: ''")
    reading.only(f"{path}.channel_num", (3,), 3, "no empty channel is added here")
    reading.only(f"{path}.output_fp16", (False,), False, "images are float32 here")
    mean = reading.take(f"{path}.mean", [0.485, 0.456, 0.406])
    return {"name": "Normalize", "mean": mean, "std": reading.take(f"{path}.std", [0.229, 0.224, 0.225])}


def _erase(reading: Reading, path: str) -> dict[str, Any] | None:
    prob = reading.number(f"{path}.EPSILON", 0.5)
    area = [reading.number(f"{path}.sl", 0.02), reading.number(f"{path}.sh", 0.4)]
    ratio = reading.number(f"{path}.r1", 0.3)
    attempts = reading.take(f"{path}.attempt", 100)
    log_aspect = reading.take(f"{path}.use_log_aspect", False)
    mode = reading.take(f"{path}.mode", "const")
    reading.take(f"{path}.mean")  # of mode const
    if not prob:
        return None
    if mode != "pixel":
        reading.refuse(f"{path}.mode", f"{mode}: rectangles are filled with noise here (pixel)")
    if not log_aspect:
        reading.note(path, _EVEN_ASPECT)
    if attempts != 10:
        reading.note(f"{path}.attempt", f"{attempts} attempts to find a place there, 10 here")
    return {"name": "RandomErasing", "prob": prob, "scale": area, "ratio": ratio, "mode": "pixel"}


def _resize(reading: Reading, path: str) -> dict[str, Any]:
    short = reading.take(f"{path}.resize_short")
    size = reading.take(f"{path}.size")
    reading.take(f"{path}.return_numpy")
    target: Any = short
    if short is None:
        sides = [size, size] if isinstance(size, int) else list(size or [])
        target = sides[::-1]  # [width, height] there
    else:
        reading.note(path, "PaddleClas rounds the longer side, here it is rounded down as in torchvision")
    return {"name": "Resize", "size": target, "interpolation": _filter(reading, path, _FILTERS)}


def _center_crop(reading: Reading, path: str) -> dict[str, Any]:
    return {"name": "CenterCrop", "size": _height_width(reading.take(f"{path}.size"))}


_SAYABLE = {
    "CropImage": _center_crop,
    "NormalizeImage": _normalize,
    "RandCropImage": _random_crop,
    "RandFlipImage": _flip,
    "RandomErasing": _erase,
    "ResizeImage": _resize,
    "TimmAutoAugment": _rand_augment,
}
