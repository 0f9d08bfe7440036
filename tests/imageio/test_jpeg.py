"""Plain JPEG files decoded without Pillow (`passl_sot.imageio.jpeg`) show what they show by Pillow."""

from __future__ import annotations

import io
import itertools
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from passl_sot.data.datasets.folders import ImageFolder
from passl_sot.imageio.decode import decode, open_image
from passl_sot.imageio.errors import ImageError

# By its name alone one gets the function.
_MODULE = sys.modules["passl_sot.imageio.decode"]


def _picture(height: int = 40, width: int = 60) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_picture(200, 300)).save(buffer, kind)
    return buffer.getvalue()


_KINDS = {
    "4:4:4": {"quality": 90, "subsampling": 0},
    "4:2:2": {"quality": 70, "subsampling": 1},
    "4:2:0": {"quality": 85, "subsampling": 2},
    "4:2:0 with restarts": {"quality": 95, "subsampling": 2, "restart_marker_blocks": 4},
    "4:2:0 in tiles": {"quality": 95, "subsampling": 2, "restart_marker_blocks": 1},
    "4:2:2 in tiles": {"quality": 60, "subsampling": 1, "restart_marker_blocks": 3},
    "4:4:4 in tiles": {"quality": 90, "subsampling": 0, "restart_marker_blocks": 2, "optimize": True},
    "4:2:0 in bands": {"quality": 90, "subsampling": 2, "restart_marker_rows": 1},
    "4:4:4 in double bands": {"quality": 90, "subsampling": 0, "restart_marker_rows": 2},
    "grey in tiles": {"quality": 90, "restart_marker_blocks": 1},
    "progressive": {"quality": 80, "progressive": True},
    "RGB": {"quality": 80, "keep_rgb": True},
    "grey": {"quality": 80},
}


def _all_by_pillow(monkeypatch) -> None:
    monkeypatch.setattr(_MODULE.jpeg, "available", lambda: False)
    monkeypatch.setattr(_MODULE.jit, "available", lambda: False)


def _jpeg(image: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **how)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", _KINDS)
def test_parts_of_a_jpeg_equal_pillows(tmp_path, photos, kind, monkeypatch):
    pytest.importorskip("simplejpeg")
    path = tmp_path / "a.jpg"
    rng = np.random.default_rng(0)
    for photo in [*photos, photos[0][:17, :31], photos[0][:16, :16]]:
        image = photo[..., 0] if kind.startswith("grey") else photo
        path.write_bytes(_jpeg(image, **_KINDS[kind]))
        expected = np.asarray(Image.open(path).convert("RGB"))
        with monkeypatch.context() as here:
            here.delattr(_MODULE, "_decode_by_pillow")
            stored = open_image(path, apply_exif=True)
            assert stored.shape == expected.shape
            np.testing.assert_array_equal(stored[:, :], expected)
            for _ in range(15):
                top, bottom = np.sort(rng.choice(photo.shape[0] + 1, 2, replace=False))
                left, right = np.sort(rng.choice(photo.shape[1] + 1, 2, replace=False))
                part = stored[top:bottom, left:right]
                np.testing.assert_array_equal(part, expected[top:bottom, left:right])


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:0 in tiles", "4:2:2 in tiles", "4:2:0 in bands"])
def test_parts_whose_edges_lie_near_those_of_tiles(photos, kind):
    pytest.importorskip("simplejpeg")
    # Colours that change from pixel to pixel.
    data = _jpeg(photos[0][:216:3, :216:3].repeat(2, axis=0).repeat(2, axis=1), **_KINDS[kind])
    jpeg, expected = _MODULE.jpeg, np.asarray(Image.open(io.BytesIO(data)))
    header = jpeg.read_header(data)
    for low, high in itertools.product(range(45, 52), range(77, 99)):
        part = jpeg.decode_part(data, header, low, high, low, high)
        np.testing.assert_array_equal(part, expected[low:high, low:high])


@pytest.mark.parametrize(
    ("kind", "decoded"),
    [
        ("4:2:0", (112, 240)),  # down to row 98, and 1 more for the chroma, in blocks of 16
        ("4:2:0 in tiles", (64, 48)),
        ("4:4:4 in tiles", (56, 48)),
        ("grey in tiles", (56, 48)),
        ("4:2:0 in bands", (64, 240)),
        ("4:4:4 in double bands", (64, 240)),
        ("4:2:2 in tiles", (56, 96)),  # 48 to 144
        ("progressive", (200, 240)),
    ],
)
def test_no_more_is_decoded_than_a_part_needs(photos, kind, decoded, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    if " in " in kind:
        pytest.importorskip("numba")  # which joins tiles
    image = photos[1][..., 0] if kind.startswith("grey") else photos[1]
    data = _jpeg(image, **_KINDS[kind])
    sizes = []

    def watched(part, **how):
        pixels = whole(part, **how)
        sizes.append(pixels.shape[:2])
        return pixels

    whole = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    _MODULE.jpeg.decode_part(data, _MODULE.jpeg.read_header(data), 50, 98, 66, 110)
    assert sizes == [decoded]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["EXIF", "XMP"])
def test_orientation_of_a_jpeg(tmp_path, photos, orientation, where):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'
    path.write_bytes(_jpeg(photos[0], **({"exif": exif} if where == "EXIF" else {"xmp": xmp.encode()})))
    plain = np.asarray(Image.open(path))
    np.testing.assert_array_equal(decode(path, apply_exif=False), plain)
    np.testing.assert_array_equal(
        decode(path, apply_exif=True), np.asarray(ImageOps.exif_transpose(Image.open(path)))
    )


def test_a_jpeg_too_large_is_refused_before_it_is_decoded(tmp_path):
    data = bytearray(_bytes("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xea\x60" * 2
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg: too large to be safe to decode"):
        open_image(tmp_path / "a.jpg", apply_exif=False)


def _cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_picture()).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


def _pictures() -> bytes:
    buffer = io.BytesIO()
    first, second = Image.fromarray(_picture()), Image.fromarray(_picture()[::-1])
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        _cmyk,
        _pictures,
        lambda: _bytes("PNG"),
        lambda: _bytes("JPEG")[:-2],
        lambda: _bytes("JPEG") + b"\0",
        lambda: _jpeg(_picture(8, 60)),
        lambda: _bytes("JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1),
        lambda: b"\xff\xd8\xff\xd9",
        lambda: b"\xff\xd8\xff\xe0\0\x10\xff\xd9",
        lambda: b"\xff\xd8\xff\xda\0\x02\xff\xd9",
        lambda: b"\xff\xd8\xff\xc0\0\x05\x08\x01\0\xff\xda\0\x03\x03\xff\xd9",
    ],
)
def test_what_is_not_plain_is_pillows(make):
    assert _MODULE.jpeg.read_header(make()) is None


def test_spoilt_headers_are_read_or_left(photos):
    """Whole ones, cut off anywhere, and with changed bytes: reading must not go beyond the end."""
    jpeg, rng, seen = _MODULE.jpeg, np.random.default_rng(0), set()
    for kind, how in _KINDS.items():
        data = _jpeg(photos[3][..., 0] if kind.startswith("grey") else photos[3], **how)
        codes_at = jpeg.read_header(data).codes_at
        spoilt = [data[:end] + b"\xff\xd9" for end in range(0, codes_at + 2, 3)]
        for _ in range(100):
            changed = bytearray(data)
            changed[rng.integers(codes_at)] = rng.integers(256)
            spoilt.append(bytes(changed))
        for file in [data, *spoilt]:
            found = jpeg.read_header(file)
            assert jpeg.read_header(memoryview(file)) == found
            seen.add(found)
    assert None in seen and len(seen) > 20


def _damage(name: str, data: bytes) -> bytes:
    middle = len(data) // 2
    if name == "a gap":
        return data[:middle] + data[middle + 300 :]
    if name == "zeros":
        return data[:middle] + bytes(300) + data[middle + 300 :]
    if name == "half, but with an end":
        return data[:middle] + b"\xff\xd9"
    # The number of codes of one bit in the first Huffman table becomes impossible.
    at = data.index(b"\xff\xc4") + 5
    return data[:at] + b"\x09" + data[at + 1 :]


@pytest.mark.parametrize("name", ["a gap", "zeros", "half, but with an end", "an impossible table"])
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0 with restarts", "4:4:4 in tiles", "progressive"])
def test_damaged_jpeg_files_are_what_they_are_to_pillow(tmp_path, photos, name, kind, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(_damage(name, _jpeg(photos[1], **_KINDS[kind])))

    def read(bottom: int) -> np.ndarray | str:
        try:
            return open_image(path, apply_exif=False)[:bottom, :]
        except ImageError as error:
            return str(error)

    results = [read(bottom) for bottom in (200, 120)]
    _all_by_pillow(monkeypatch)
    for result, bottom in zip(results, (200, 120), strict=True):
        np.testing.assert_equal(result, read(bottom))


_TRAIN = [
    {"name": "RandomResizedCrop", "size": 48, "interpolation": "random"},
    {"name": "RandomHorizontalFlip"},
    {"name": "RandAugment"},
    {"name": "Normalize"},
    {"name": "RandomErasing"},
]
_EVAL = [
    {"name": "Resize", "size": 48, "crop_pct": 0.875},
    {"name": "CenterCrop", "size": 48},
    {"name": "Normalize"},
]
_OTHERS = [
    {"name": "Resize", "size": [70, 41], "interpolation": "lanczos"},
    {"name": "RandomCrop", "size": 40},
]
_PADDED = [{"name": "Resize", "size": 40, "interpolation": "nearest"}, {"name": "CenterCrop", "size": 64}]


@pytest.mark.parametrize("transforms", [_TRAIN, _EVAL, [*_OTHERS, _EVAL[-1]], [*_PADDED, _EVAL[-1]]])
@pytest.mark.parametrize("channels", [3, 1])
def test_whole_pipelines_are_the_same_by_pillow(tmp_path, photos, transforms, channels, monkeypatch):
    (tmp_path / "class").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (kind, how) in enumerate([*_KINDS.items(), ("turned", {"exif": exif})]):
        photo = photos[number % len(photos)]
        image = photo[..., 1] if kind.startswith("grey") else photo
        (tmp_path / "class" / f"{number}.jpg").write_bytes(_jpeg(image, **how))
    Image.fromarray(photos[0]).save(tmp_path / "class" / "8.png")
    dataset = ImageFolder(dataroot=str(tmp_path), transforms=transforms, channels=channels)
    keys = [(epoch, index) for index in range(9) for epoch in range(4)]
    results = [dataset[key]["image"] for key in keys]
    _all_by_pillow(monkeypatch)
    for key, result in zip(keys, results, strict=True):
        np.testing.assert_array_equal(result, dataset[key]["image"])
