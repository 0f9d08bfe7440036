"""Restart markers moved in real JPEG files: every pixel stays, and crops are decoded in part."""

import io

import numpy as np
import pytest
from PIL import Image

from passl_sot.data import jpeg
from passl_sot.data.decode import open_bytes
from passl_sot.data.jpeg_tiles import add_tiles, tile_blocks

pytest.importorskip("numba")

KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "grey": {},
    "tables of its own": {"optimize": True},
    "best quality": {"quality": 100, "subsampling": 0},
    "worst quality": {"quality": 1},
    "markers every 11 blocks": {"restart_marker_blocks": 11},
    "markers every 2 rows": {"restart_marker_rows": 2},
    "metadata": {"comment": b"\xff\xda\xff\xd9", "icc_profile": bytes(range(256)), "exif": b"Exif\0\0II*\0"},
}
SIZES = ((224, 224), (200, 240), (97, 131), (17, 33), (64, 500), (181, 16))


def encoded(image: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **how)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_stay(photos, kind):
    rng = np.random.default_rng(0)
    photo = np.concatenate([photos[0]] * 3, axis=1)
    for height, width in SIZES:
        image = photo[:height, :width, 0] if kind == "grey" else photo[:height, :width]
        data = encoded(image, **KINDS[kind])
        tiled = add_tiles(data)
        assert tiled is not None
        expected = pixels(data)
        np.testing.assert_array_equal(pixels(tiled), expected)
        header = jpeg.read_header(tiled)
        assert header.interval == tile_blocks(width, header.block[1])
        assert len(tiled) < 1.3 * len(data) + 200
        assert add_tiles(tiled) is None  # there is nothing left to gain
        stored = open_bytes(tiled, "a", apply_exif=True)
        for _ in range(10):
            top, bottom = np.sort(rng.choice(height + 1, 2, replace=False))
            left, right = np.sort(rng.choice(width + 1, 2, replace=False))
            np.testing.assert_array_equal(stored[top:bottom, left:right], expected[top:bottom, left:right])


def test_crops_are_decoded_in_part(photos, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    tiled = add_tiles(encoded(photos[1]))
    whole, sizes = simplejpeg.decode_jpeg, []

    def watched(data, **how):
        sizes.append(whole(data, **how).shape[:2])
        return whole(data, **how)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    open_bytes(tiled, "a", apply_exif=True)[50:98, 90:130]
    assert sizes == [(64, 96)]  # of 200 x 240, in tiles of 16 x 48


def test_a_table_that_lacks_a_code(photos):
    """Neighbours differ by little, so the file's own table has no code for a block's whole mean."""
    ramp = np.broadcast_to(np.linspace(128, 255, 400).astype(np.uint8), (64, 400))
    data = encoded(np.ascontiguousarray(ramp), optimize=True, quality=100)
    tiled = add_tiles(data)
    assert tiled.count(b"\xff\xc4") == data.count(b"\xff\xc4") + 1
    np.testing.assert_array_equal(pixels(tiled), pixels(data))


def damaged(data: bytes, kind: str) -> bytes:
    middle = len(data) // 2
    return {
        "gap": data[:middle] + data[middle + 300 :],
        "half": data[:middle] + b"\xff\xd9",
        "marker": data[:middle] + b"\xff\xd3" + data[middle:],
        "more": data[:-2] + bytes(64) + b"\xff\xd9",
        "behind the end": data + b"\0",
        "no end": data[:-2],
    }[kind]


@pytest.mark.parametrize("kind", ["gap", "half", "marker", "more", "behind the end", "no end"])
def test_damaged_files_are_left_alone(photos, kind):
    assert add_tiles(damaged(encoded(photos[0]), kind)) is None


@pytest.mark.parametrize("how", [{"progressive": True}, {"restart_marker_blocks": 2}])
def test_other_files_are_left_alone(photos, how):
    assert add_tiles(encoded(photos[0], **how)) is None


def test_kinds_of_files_that_are_left_alone(photos):
    cmyk, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(photos[0]).convert("CMYK").save(cmyk, "JPEG")
    Image.fromarray(photos[0]).save(png, "PNG")
    assert add_tiles(cmyk.getvalue()) is None
    assert add_tiles(png.getvalue()) is None
    assert add_tiles(b"") is None


def test_any_bytes_do_no_harm(photos):
    """Compiled loops don't check bounds: whatever stands in a file, they stay within their arrays."""
    rng = np.random.default_rng(0)
    good = np.frombuffer(encoded(photos[3], quality=30, optimize=True), np.uint8)
    changed = 0
    for _ in range(600):
        bad = good.copy()
        places = rng.integers(2, len(bad) - 2, rng.integers(1, 4))
        bad[places] = rng.choice([0, 1, 17, 127, 255, *rng.integers(0, 256, 3)], len(places))
        tiled = add_tiles(bad.tobytes())
        changed += tiled is not None
        assert tiled is None or tiled.endswith(b"\xff\xd9")
    assert 20 < changed < 600


def test_tiles_divide_rows():
    for block in (8, 16):
        for width in range(1, 1200):
            row = -(-width // block)
            tile = tile_blocks(width, block)
            assert row % tile == 0
            assert tile == row or 32 <= tile * block <= 160
    assert tile_blocks(500, 16) == 4
    assert tile_blocks(8 * 61, 8) == 61  # a prime number: the whole row
