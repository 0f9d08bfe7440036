"""Odd image files come out as Pillow has them, to the bit, or are refused as by Pillow, each kind so often.

What is expected is Pillow's `open`, `load`, `convert`, `exif_transpose`, `crop` and `resize`, called here, so
without the paths that the data layer takes for speed.
"""

from __future__ import annotations

import importlib.util
import io
import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from passl_sot.data.transforms.image import CenterCrop, RandomResizedCrop, Resize
from passl_sot.imageio.decode import FORMATS, open_image
from passl_sot.imageio.errors import ImageError
from passl_sot.imageio.lazy_image import as_array

_HERE = Path(__file__).parent
_PAGE = (_HERE.parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
_SPEC = importlib.util.spec_from_file_location("odd_images", _HERE / "odd_images.py")
odd_images = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(odd_images)


def _by_pillow(data: bytes, apply_exif: bool) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        turned = ImageOps.exif_transpose(image) if apply_exif else image
        # Two rules of docs/data.md, where Pillow would clip values to white.
        if turned.mode.startswith("I;16") or (image.format == "PPM" and turned.mode == "I"):
            return Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8)).convert("RGB")
        if turned.mode in ("I", "F"):
            raise ValueError("brightness range isn't defined")
        return turned.convert("RGB")


def _as_evaluated(image: Image.Image, side: int) -> np.ndarray:
    """torchvision's Resize to side / 0.875 and CenterCrop."""
    width, height = image.size
    short = int(side / 0.875)
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def _check(path: Path, *, crops: int = 2) -> str:
    """Compares all that is made of a file; "equal", or "refused" by Pillow and here."""
    data = path.read_bytes()
    for apply_exif in (False, True):
        try:
            expected = _by_pillow(data, apply_exif)
        except Exception as error:
            _check_refusal(path, apply_exif, error)
            continue
        pixels = as_array(open_image(path, apply_exif=apply_exif))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.asarray(expected))
        _check_views(path, apply_exif, expected, crops)
    return "equal" if "pixels" in locals() else "refused"


def _check_refusal(path: Path, apply_exif: bool, error: Exception) -> None:
    with pytest.raises(ImageError) as caught:
        as_array(open_image(path, apply_exif=apply_exif))
    reason = caught.value.reason
    assert str(caught.value) == f"{path}: {reason}"
    if not isinstance(error, Image.UnidentifiedImageError):  # those have words of their own: see test_decode
        assert str(error) in reason


def _check_views(path: Path, apply_exif: bool, expected: Image.Image, crops: int) -> None:
    """Evaluation's view and some training views, each of a file opened anew, so that parts are decoded."""
    height, width = expected.height, expected.width
    side = 64 if max(height, width) < 20 * min(height, width) else 16
    rng = np.random.default_rng(0)
    resized = Resize(size=side, crop_pct=0.875).apply(open_image(path, apply_exif=apply_exif), rng)
    np.testing.assert_array_equal(CenterCrop(size=side)(resized, rng), _as_evaluated(expected, side))
    crop = RandomResizedCrop(size=side)
    for seed in range(crops):
        top, left, h, w = crop.region(height, width, np.random.default_rng(seed))
        box = (left, top, left + w, top + h)
        view = expected.crop(box).resize((side, side), Image.Resampling.BICUBIC)
        result = crop(open_image(path, apply_exif=apply_exif), np.random.default_rng(seed))
        np.testing.assert_array_equal(result, np.asarray(view))


@pytest.mark.parametrize("kind", odd_images.KINDS)
def test_odd_images(tmp_path, photos, kind):
    found: Counter = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of what it makes of transparency
        for name, data in odd_images.KINDS[kind](photos):
            path = tmp_path / name
            path.write_bytes(data)
            found[_check(path)] += 1
    row = f"| {kind} | {found['equal'] or ''} | {found['refused'] or ''} |".replace("  ", " ")
    assert row in _PAGE.splitlines()


def test_real_photographs():
    """Every image of a folder: `PASSL_SOT_PHOTOGRAPHS=DIR pytest -k real_photographs`."""
    folder = os.environ.get("PASSL_SOT_PHOTOGRAPHS")
    if not folder:
        pytest.skip("PASSL_SOT_PHOTOGRAPHS names no folder")
    found = Counter(_check(path, crops=4) for path in sorted(Path(folder).rglob("*")) if path.is_file())
    assert set(found) == {"equal"} and found["equal"] > 0, found
