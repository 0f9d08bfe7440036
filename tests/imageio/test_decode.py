from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from passl_sot.imageio.decode import decode, resize
from passl_sot.imageio.errors import ImageError

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
def test_exif_orientation(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    for orientation in range(1, 9):
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
        (
            "deep.jpg",
            lambda: _bytes("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c", 1),
            "^[^:]*: a JPEG file of 12 bits, which Pillow doesn't read; save it with 8 bits$",
        ),
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


def _bomb(path) -> None:
    """A small file whose header claims 400 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def test_decompression_bomb(tmp_path, monkeypatch):
    _bomb(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="too large to be safe"):
        decode(tmp_path / "bomb.png", apply_exif=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="20000x20000 pixels: too large"):
        decode(tmp_path / "bomb.png", apply_exif=True)


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
def test_resize_is_pillows(name, resample):
    image = _picture()
    expected = Image.fromarray(image).resize((17, 23), resample)
    result = resize(image, (23, 17), interpolation=name)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_resize_takes_views():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for view in (image[:, ::-1], image[3:30, 4:50], image.transpose(1, 0, 2)):
        np.testing.assert_array_equal(resize(view, (9, 8)), resize(np.ascontiguousarray(view), (9, 8)))
