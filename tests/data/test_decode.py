from __future__ import annotations

import io
import pickle
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from passl_sot.data import ImageError, ImageFolder, decode, resize
from passl_sot.data.decode import open_image

# By its name alone one gets the function.
_MODULE = sys.modules["passl_sot.data.decode"]

_STORED = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def _picture(height: int = 40, width: int = 60) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# What each EXIF orientation makes of the stored pixels to show them upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("ending", ["png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_STORED).save(path, exif=exif, lossless=True)
    np.testing.assert_array_equal(decode(path, apply_exif=True), _UPRIGHT[orientation](_STORED))
    np.testing.assert_array_equal(decode(path, apply_exif=False), _STORED)


@pytest.mark.parametrize("orientation", [0, 1, 6, 9])
def test_exif_of_jpeg_equals_pillows_own(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_picture()).save(path, exif=exif)
    with Image.open(path) as image:
        plain = np.asarray(image)
    assert decode(path, apply_exif=False).shape == (40, 60, 3)
    np.testing.assert_array_equal(decode(path, apply_exif=False), plain)
    expected = np.rot90(plain, -1) if orientation == 6 else plain
    np.testing.assert_array_equal(decode(path, apply_exif=True), expected)


def test_broken_exif_counts_as_none(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(_picture()).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of it, and may
        assert decode(path, apply_exif=True).shape == (40, 60, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(tmp_path, progressive):
    path = tmp_path / "a.jpg"
    Image.fromarray(_picture()).save(path, quality=90, progressive=progressive)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode(path, apply_exif=True), np.asarray(image))


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp", "pgm"])
def test_grey_is_repeated(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    grey = _picture()[:, :, 0] // 16 * 16
    Image.fromarray(grey).save(path, **({"lossless": True} if ending == "webp" else {}))
    result = decode(path, apply_exif=True)
    assert result.shape == (40, 60, 3)
    assert result.dtype == np.uint8
    assert (result == result[:, :, :1]).all()
    difference = np.abs(result[:, :, 0].astype(int) - grey)
    assert difference.mean() < 4 if ending == "jpg" else not difference.any()


def test_bilevel(tmp_path):
    bits = _picture()[:, :, 0] > 128
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", apply_exif=True)[:, :, 1], bits * np.uint8(255))


def test_cmyk_by_pillow(tmp_path):
    path = tmp_path / "a.jpg"
    with Image.fromarray(_picture()).convert("CMYK") as image:
        image.save(path, quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        expected = np.asarray(image.convert("RGB"))
    result = decode(path, apply_exif=True)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_allclose(result, _picture().astype(float), atol=24)


@pytest.mark.parametrize("transform", [0, 2])
def test_adobe_cmyk_and_ycck(tmp_path, transform):
    """An Adobe marker says whether four channels are CMYK (0) or YCCK (2); Pillow follows it."""
    buffer = io.BytesIO()
    Image.fromarray(_picture()).convert("CMYK").save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    where = data.find(b"\xff\xee")
    data = data[:where] + marker + data[where + 16 :] if where > 0 else data[:2] + marker + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert image.info["adobe_transform"] == transform
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(path, apply_exif=True), expected)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_takes_the_high_byte(tmp_path, ending):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(values).save(path)
    result = decode(path, apply_exif=True)
    for channel in range(3):
        np.testing.assert_array_equal(result[:, :, channel], values >> 8)
    assert result.std() > 70  # not clipped to white


def test_16_bit_pgm_takes_the_high_byte(tmp_path):
    values = np.array([[0, 255, 256], [0x1234, 0xFF00, 0xFFFF]], np.uint16)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 3 2 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(path, apply_exif=True)[:, :, 0], values >> 8)


def test_16_bit_colour_png_takes_the_high_byte(tmp_path):
    import struct
    import zlib

    values = np.random.default_rng(0).integers(0, 65536, (3, 4, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    path = tmp_path / "a.png"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode(path, apply_exif=True), values >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_undefined_ranges_are_refused(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(
        ImageError, match=r"a\.tif: a (32-bit integer|floating-point) image, .*save it with 8 or 16"
    ):
        decode(path, apply_exif=True)


def test_alpha_is_dropped(tmp_path):
    alpha = np.zeros((40, 60, 1), np.uint8)
    alpha[:20] = 200
    Image.fromarray(np.concatenate([_picture(), alpha], 2)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(decode(tmp_path / "rgba.png", apply_exif=True), _picture())
    Image.fromarray(np.concatenate([_picture()[:, :, :1], alpha], 2)).save(tmp_path / "la.png")
    result = decode(tmp_path / "la.png", apply_exif=True)
    np.testing.assert_array_equal(result, np.repeat(_picture()[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 256, 2))])
def test_palette(tmp_path, transparency):
    path = tmp_path / "a.png"
    image = Image.fromarray(_picture()).quantize(64)
    expected = np.asarray(image.convert("RGB"))
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(decode(path, apply_exif=True), expected)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert (decode(path, apply_exif=True) == [255, 0, 0]).all()


def test_content_counts_not_the_ending(tmp_path):
    path = tmp_path / "really a png.jpg"
    Image.fromarray(_picture()).save(path, format="PNG")
    np.testing.assert_array_equal(decode(path, apply_exif=True), _picture())


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_extreme_sizes(tmp_path, size, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", size, (10, 20, 30)).save(path)
    assert decode(path, apply_exif=True).shape == (size[1], size[0], 3)


def test_names_with_spaces_and_chinese(tmp_path):
    folder = tmp_path / "a class 狗"
    folder.mkdir()
    Image.fromarray(_picture()).save(folder / "我的 图.png")
    np.testing.assert_array_equal(decode(str(folder / "我的 图.png"), apply_exif=True), _picture())


def _bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_picture(200, 300)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("empty.jpg", lambda: b"", r"the file is empty \(0 bytes\)"),
        ("half.jpg", lambda: _bytes("JPEG")[:2000], "damaged or truncated image .*truncated"),
        ("half.png", lambda: _bytes("PNG")[:5000], "damaged or truncated image"),
        ("half.webp", lambda: _bytes("WEBP")[:500], "damaged"),
        ("half.gif", lambda: _bytes("GIF")[:5000], "damaged or truncated image"),
        ("half.bmp", lambda: _bytes("BMP")[:5000], "damaged or truncated image"),
        ("head.jpg", lambda: _bytes("JPEG")[:12], "damaged or truncated image"),
        ("start.jpg", lambda: _bytes("JPEG")[:3], "damaged"),
        ("head.png", lambda: _bytes("PNG")[:20], "damaged"),
        ("zeros.jpg", lambda: bytes(5000), "begins with zeros"),
        ("page.jpg", lambda: b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML, XML or SVG page"),
        ("text.jpg", lambda: b"this is a text", "not an image but a text file"),
        ("lfs.jpg", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("noise.jpg", lambda: bytes(range(128, 256)), "not an image of a known kind"),
        ("vector.jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("crc.png", lambda: _bytes("PNG").replace(b"IDAT", b"IDAX", 1), "damaged"),
    ],
)
def test_bad_files_are_named_with_the_reason(tmp_path, name, make, words):
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(ImageError, match=words) as caught:
        decode(str(path), apply_exif=True)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason, str(again)) == (str(path), caught.value.reason, str(caught.value))


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncation_anywhere_is_noticed(tmp_path, kind, cut):
    data = _bytes(kind)
    (tmp_path / "a").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ImageError):
        decode(tmp_path / "a", apply_exif=True)


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "none.jpg", apply_exif=True)
    with pytest.raises(ImageError, match="is a folder"):
        decode(tmp_path, apply_exif=True)


def test_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ImageError, match="too large to be safe"):
        decode(path, apply_exif=True)


def test_bomb_is_stopped_where_pillows_limit_was_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ImageError, match="20000x20000 pixels: too large"):
        decode(path, apply_exif=True)


def test_tolerated_truncation_elsewhere_is_no_excuse(tmp_path, monkeypatch):
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        decode(tmp_path / "a.png", apply_exif=True)


def test_pillows_settings_stay(tmp_path):
    Image.fromarray(_picture()).save(tmp_path / "a.jpg")
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK)
    decode(tmp_path / "a.jpg", apply_exif=True)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK)


@pytest.mark.parametrize(
    ("name", "resample"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("box", [None, (3, 5, 33, 25), (2.5, 1.25, 50.75, 39.5)])
def test_resize_is_pillows(name, resample, box):
    image = _picture()
    expected = Image.fromarray(image).resize((17, 23), resample, box=box)
    result = resize(image, (23, 17), box=box, interpolation=name)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_resize_takes_views():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for view in (image[:, ::-1], image[3:30, 4:50], image.transpose(1, 0, 2)):
        np.testing.assert_array_equal(resize(view, (9, 8)), resize(np.ascontiguousarray(view), (9, 8)))


# From here on: plain JPEG files decoded without Pillow (`passl_sot.data.jpeg`).
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
    monkeypatch.setattr(_MODULE.compiling, "available", lambda: False)


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
            for _ in range(40):
                top, bottom = np.sort(rng.choice(photo.shape[0] + 1, 2, replace=False))
                left, right = np.sort(rng.choice(photo.shape[1] + 1, 2, replace=False))
                part = stored[top:bottom, left:right]
                np.testing.assert_array_equal(part, expected[top:bottom, left:right])


@pytest.mark.parametrize(
    ("kind", "decoded"),
    [
        ("4:2:0", (112, 240)),  # down to row 98, and 2 more for the chroma, in blocks of 16
        ("4:2:0 in tiles", (64, 48)),
        ("4:4:4 in tiles", (56, 48)),
        ("grey in tiles", (56, 48)),
        ("4:2:0 in bands", (64, 240)),
        ("4:4:4 in double bands", (64, 240)),
        ("4:2:2 in tiles", (56, 96)),
        ("progressive", (200, 240)),
    ],
)
def test_no_more_is_decoded_than_a_part_needs(photos, kind, decoded, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
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
    np.testing.assert_array_equal(decode(path, apply_exif=True), _UPRIGHT[orientation](plain))


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
