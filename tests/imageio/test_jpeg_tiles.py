"""Restart markers are added to JPEG files without a change of any pixel."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from passl_sot.imageio.jpeg import decode_part, read_header, tile_blocks

pytest.importorskip("numba")

from passl_sot.imageio.kernels.jpeg_restart import tile_jpeg

KINDS = {
    "4:4:4": {"quality": 90, "subsampling": 0},
    "4:2:2": {"quality": 70, "subsampling": 1},
    "4:2:0": {"quality": 85, "subsampling": 2},
    "coarse": {"quality": 3, "subsampling": 2, "optimize": True},
    "fine": {"quality": 100, "subsampling": 0, "optimize": True},
    "RGB": {"quality": 80, "keep_rgb": True},
    "grey": {"quality": 80},
    "with metadata": {"quality": 80, "comment": b"a comment", "icc_profile": bytes(3000)},
}


def _jpeg(image: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **how)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_hold_the_same_image(photos, kind):
    wide = np.tile(photos[0], (2, 5, 1))[:300, :1037]
    for photo in [*photos, photos[0][:17, :31], photos[0][:16, :16], wide]:
        data = _jpeg(photo[..., 0] if kind == "grey" else photo, **KINDS[kind])
        tiled = tile_jpeg(data)
        before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(tiled))
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        assert after.info.get("comment") == before.info.get("comment")
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        assert after.quantization == before.quantization
        header = read_header(tiled)
        assert header.sequential and header.interval
        tile = header.interval * header.mcu_hw[1]
        columns = -(-header.width // header.mcu_hw[1])
        assert columns % header.interval == 0
        assert header.interval == tile_blocks(header.width, header.mcu_hw[1])
        assert 16 <= tile <= 160 or header.interval == columns
        markers = re.findall(rb"\xff([\xd0-\xd7])", tiled[header.codes_at :])
        expected = -(-header.height // header.mcu_hw[0]) * columns // header.interval - 1
        assert len(markers) == expected
        assert len(tiled) <= len(data) + 40 + 12 * expected


@pytest.mark.parametrize(
    ("image_width", "block", "blocks"),
    [
        (500, 16, 2),  # of 32 in a row
        (500, 8, 3),  # of 63: tiles of 24 pixels
        (600, 8, 3),  # of 75
        (448, 8, 4),  # of 56: tiles of 32 pixels
        (427, 16, 3),  # of 27
        (496, 16, 1),  # of 31: 16 pixels, as no other number divides a prime
        (464, 8, 2),  # of 58
        (375, 8, 47),  # a row, as 8 pixels are too few
        (20, 16, 2),
        (8, 8, 1),
    ],
)
def test_width_of_tiles(image_width, block, blocks):
    assert tile_blocks(image_width, block) == blocks


def test_a_table_that_lacks_codes_is_replaced():
    """In a ramp all blocks differ from the one before by the same; after a restart they count from 0."""
    ramp = np.broadcast_to(np.repeat(np.arange(160, dtype=np.uint8), 8), (64, 1280))
    data = _jpeg(ramp, optimize=True)
    tiled = tile_jpeg(data)
    assert tiled.count(b"\xff\xc4") > data.count(b"\xff\xc4")
    np.testing.assert_array_equal(_pixels(tiled), _pixels(data))


def test_what_is_left_alone(photos):
    data = _jpeg(photos[1])
    assert tile_jpeg(_jpeg(photos[1], progressive=True)) is None
    assert tile_jpeg(_jpeg(photos[1], restart_marker_blocks=1)) is None
    assert tile_jpeg(tile_jpeg(data)) is None
    assert tile_jpeg(data[:-2]) is None
    assert tile_jpeg(b"\x89PNG") is None
    assert tile_jpeg(b"") is None


def test_damaged_files_are_refused_or_stay_what_they_are(photos):
    """Bytes are changed all over the file: nothing comes out, or what shows what the damaged file shows."""
    data = _jpeg(photos[3], quality=80)
    rng = np.random.default_rng(0)

    def shown(file: bytes) -> np.ndarray | None:
        try:
            return _pixels(file)
        except OSError:
            return None

    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(20, len(data) - 2, 3):
            damaged[place] = rng.integers(256)
        tiled = tile_jpeg(bytes(damaged))
        refused += tiled is None
        if tiled is not None:
            np.testing.assert_equal(shown(tiled), shown(bytes(damaged)))
    assert 0 < refused < 150


def test_tables_with_two_codes_for_a_symbol_are_left_alone():
    """With the longer one in place of the other, more would be written than there is room for."""

    def segment(kind: int, body: bytes) -> bytes:
        return bytes((0xFF, kind)) + (2 + len(body)).to_bytes(2, "big") + body

    dc = bytes([0x00, 1, *[0] * 14, 1, 0, 0])
    ac = bytes([0x10, 1, *[0] * 15, 0])
    frame = bytes([8]) + (800).to_bytes(2, "big") + (1688).to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    blocks = 211 * 100
    data = b"\xff\xd8" + segment(0xDB, bytes(1) + bytes([1] * 64)) + segment(0xC0, frame)
    data += segment(0xC4, dc + ac) + segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + bytes(2 * blocks // 8 + 1)
    data += b"\xff\xd9"
    assert (_pixels(data) == 128).all()
    assert tile_jpeg(data) is None


@pytest.mark.parametrize("subsampling", [1, 2])
def test_the_last_columns_of_narrow_tiles(photos, subsampling):
    """Of a last tile under five pixels wide a decoder would spread colours in another way."""
    data = _jpeg(np.ascontiguousarray(photos[0][:40, :34]), subsampling=subsampling, restart_marker_blocks=1)
    header, whole = read_header(data), _pixels(data)
    for left in range(28, 34):
        for right in range(left + 1, 35):
            part = decode_part(data, header, 0, 20, left, right)
            np.testing.assert_array_equal(part, whole[:20, left:right])
