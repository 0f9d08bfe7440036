"""Odd image files, made of real photographs by kind, for `test_odd_images`."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Odd = Iterator[tuple[str, bytes]]
Photos = list[np.ndarray]

SIDES = ((1, 1), (7, 9), (8, 8), (9, 16), (15, 17), (16, 15), (17, 31), (33, 65), (100, 3))
ORIENTATION = 0x0112


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **how) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def _qualities(photos: Photos) -> Odd:
    for quality in range(1, 101):
        photo = photos[quality % 4]
        cut = photo[: 40 + quality % 23, : 50 + quality % 29]
        yield f"{quality}.jpg", encoded(cut, quality=quality, subsampling=quality % 3)


def _sizes(photos: Photos) -> Odd:
    for height, width in SIDES:
        for subsampling in range(3):
            cut = photos[subsampling][:height, :width]
            yield f"{height}x{width}-{subsampling}.jpg", encoded(cut, subsampling=subsampling)
    line = np.tile(photos[0][:1], (1, 23, 1))[:, :5000]
    for kind in ("JPEG", "PNG", "WEBP"):
        yield f"1x5000.{kind}", encoded(line, kind)
        yield f"5000x1.{kind}", encoded(line.transpose(1, 0, 2), kind)
        yield f"1x1.{kind}", encoded(line[:, :1], kind)


def _samplings(photos: Photos) -> Odd:
    """4:4:0, 4:1:1 and others that Pillow doesn't write, as other headers of 4:2:2 and 4:2:0."""
    for number, photo in enumerate(photos[:2]):
        square = np.ascontiguousarray(photo[:128, :128])
        for subsampling, old, others in ((1, 0x21, (0x12,)), (2, 0x22, (0x41, 0x14))):
            data = encoded(square, subsampling=subsampling, quality=90)
            at = data.index(b"\xff\xc0") + 11
            assert data[at] == old
            for new in others:
                yield f"{number}-{new:x}.jpg", data[:at] + bytes([new]) + data[at + 1 :]


def _codings(photos: Photos) -> Odd:
    """Restart markers, progressive files, optimised tables, RGB, all of these."""
    restarts = [{"restart_marker_blocks": n} for n in (1, 2, 3, 5, 8)]
    restarts += [{"restart_marker_rows": n} for n in (1, 2)]
    for subsampling in range(3):
        for number, how in enumerate([*restarts, {"progressive": True}, {"optimize": True}]):
            photo = photos[(subsampling + number) % 4]
            yield f"{subsampling}-{number}.jpg", encoded(photo, subsampling=subsampling, quality=88, **how)
    for number, photo in enumerate(photos):
        yield f"rgb-{number}.jpg", encoded(photo, keep_rgb=True)
        yield f"grey-{number}.jpg", encoded(photo[..., 1], progressive=number % 2 == 0)
        more = {"progressive": True, "restart_marker_rows": 1, "optimize": True}
        yield f"all-{number}.jpg", encoded(photo, quality=95, subsampling=0, **more)


def _turned(photos: Photos) -> Odd:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            yield f"{orientation}.{kind}", encoded(photos[orientation % 4], kind, exif=exif)
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'
        yield f"{orientation}-xmp.jpg", encoded(photos[orientation % 4], xmp=xmp.encode())


def _printers(photos: Photos) -> Odd:
    """CMYK as Pillow writes it, and with Adobe's markers for CMYK (0) and YCCK (2)."""
    for number, photo in enumerate(photos):
        data = encoded(Image.fromarray(photo).convert("CMYK"), quality=70 + 8 * number)
        yield f"{number}.jpg", data
        bare = re.sub(rb"\xff\xee\x00\x0eAdobe.{7}", b"", data, count=1, flags=re.S)
        for transform in (0, 2):
            marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
            yield f"{number}-{transform}.jpg", bare[:2] + marker + bare[2:]
        yield f"{number}.tif", encoded(Image.fromarray(photo).convert("CMYK"), "TIFF")


def _greys(photos: Photos) -> Odd:
    for kind in ("PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"):
        yield f"grey.{kind}", encoded(Image.fromarray(photos[1]).convert("L"), kind)
    for number, photo in enumerate(photos):
        grey = Image.fromarray(photo).convert("L")
        yield f"bilevel-{number}.png", encoded(grey.convert("1"), "PNG")
        yield f"alpha-{number}.png", encoded(Image.merge("LA", (grey, grey.rotate(180))), "PNG")


def _alphas(photos: Photos) -> Odd:
    for number, photo in enumerate(photos):
        picture = Image.fromarray(photo)
        picture.putalpha(picture.convert("L"))
        for kind in ("PNG", "WEBP", "TIFF"):
            yield f"{number}.{kind}", encoded(picture, kind)
        yield f"{number}-key.png", encoded(photo, "PNG", transparency=tuple(photo[0, 0].tolist()))


def _palettes(photos: Photos) -> Odd:
    for number, photo in enumerate(photos):
        picture = Image.fromarray(photo).quantize((2, 16, 100, 256)[number])
        yield f"{number}.png", encoded(picture, "PNG")
        yield f"{number}-one.png", encoded(picture, "PNG", transparency=1)
        yield f"{number}-all.png", encoded(picture, "PNG", transparency=bytes(range(0, 256, 2)))
        yield f"{number}.gif", encoded(picture, "GIF", transparency=1)
        yield f"{number}.bmp", encoded(picture, "BMP")


def _deep(photos: Photos) -> Odd:
    """16 bits: grey PNG, TIFF and PGM, and PNG in colours."""
    for number, photo in enumerate(photos):
        noise = np.random.default_rng(number).integers(0, 256, photo.shape, dtype=np.uint16)
        deep = photo.astype(np.uint16) << 8 | noise
        grey = np.ascontiguousarray(deep[..., 0])
        yield f"{number}.png", encoded(grey, "PNG")
        yield f"{number}.tif", encoded(grey, "TIFF")
        size = f"{grey.shape[1]} {grey.shape[0]}".encode()
        yield f"{number}.pgm", b"P5 " + size + b" 65535\n" + grey.astype(">u2").tobytes()
        yield f"{number}-colours.png", _deep_png(deep)


def _deep_png(image: np.ndarray) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _metadata(photos: Photos) -> Odd:
    """Colour profiles, comments, and an EXIF thumbnail, a JPEG file before the image's own."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for number, photo in enumerate(photos):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield f"profile-{number}.{kind}", encoded(photo, kind, icc_profile=profile)
        more = {"icc_profile": bytes(150_000), "comment": b"\xff\xd8\xff\xd9"}
        yield f"profiles-{number}.jpg", encoded(photo, **more)
        thumbnail = encoded(photos[3 - number][::8, ::8], quality=30)
        exif = _exif_with(thumbnail, orientation=1 + 2 * number)
        yield f"thumbnail-{number}.jpg", encoded(photo, exif=exif, progressive=number == 1)


def _exif_with(thumbnail: bytes, orientation: int) -> bytes:
    """An orientation in the first directory, and in the second a thumbnail with one of its own."""

    def directory(entries: list[tuple[int, int, int]], following: int) -> bytes:
        body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
        return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)

    first = directory([(ORIENTATION, 3, orientation)], 26)
    more = [(ORIENTATION, 3, 8), (0x0201, 4, 26 + 2 + 3 * 12 + 4), (0x0202, 4, len(thumbnail))]
    return b"Exif\0\0II*\0\x08\0\0\0" + first + directory(more, 0) + thumbnail


def _more_after(photos: Photos) -> Odd:
    """Bytes after the image's end, and several images in a file."""
    plain = encoded(photos[0], quality=80)
    for number, more in enumerate((b"\0", b"\xff\xd9", bytes(1000), b"<html></html>", encoded(photos[2]))):
        yield f"{number}.jpg", plain + more
        yield f"{number}.png", encoded(photos[1], "PNG") + more
        yield f"{number}.gif", encoded(photos[3], "GIF") + more
    first, *others = (Image.fromarray(photo[:60, :60]) for photo in photos)
    for kind in ("GIF", "PNG", "WEBP"):
        yield f"several.{kind}", encoded(first, kind, save_all=True, append_images=others)


def _misnamed(photos: Photos) -> Odd:
    for kind, ending in (("PNG", "jpg"), ("JPEG", "png"), ("WEBP", "jpeg"), ("GIF", "jpg"), ("BMP", "JPEG")):
        yield f"really {kind}.{ending}", encoded(photos[1], kind)
    yield "none", encoded(photos[2])


def _cut(photos: Photos) -> Odd:
    """Truncated at several lengths, down to the first bytes."""
    tiles = {"restart_marker_blocks": 2}
    files = {
        "444.jpg": encoded(photos[1], subsampling=0),
        "420.jpg": encoded(photos[1], subsampling=2),
        "progressive.jpg": encoded(photos[1], progressive=True),
        "tiles.jpg": encoded(photos[1], **tiles),
        "a.png": encoded(photos[1], "PNG"),
        "a.webp": encoded(photos[1], "WEBP"),
        "a.gif": encoded(photos[1], "GIF"),
        "a.bmp": encoded(photos[1], "BMP"),
    }
    for name, data in files.items():
        for share in (0.001, 0.02, 0.3, 0.6, 0.95):
            yield f"{share}-{name}", data[: int(len(data) * share)]
    for lost in (1, 2, 3, 10, 100):
        for name in ("444.jpg", "progressive.jpg", "tiles.jpg", "a.png"):
            yield f"-{lost}-{name}", files[name][:-lost]


def _unusual(photos: Photos) -> Odd:
    """Headers that say 12 bits, arithmetic coding, or without loss; 32-bit values; no images at all."""
    for subsampling in range(3):
        data = encoded(photos[0], subsampling=subsampling)
        at = data.index(b"\xff\xc0")
        yield f"12-{subsampling}.jpg", data[: at + 4] + b"\x0c" + data[at + 5 :]
        for frame in (0xC3, 0xC5, 0xC9, 0xCA):
            yield f"{frame:x}-{subsampling}.jpg", data[: at + 1] + bytes([frame]) + data[at + 2 :]
    for mode in ("I", "F"):
        yield f"{mode}.tif", encoded(Image.fromarray(photos[0]).convert("L").convert(mode), "TIFF")
    yield "empty.jpg", b""
    yield "zeros.jpg", bytes(5000)
    yield "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "noise.jpg", np.random.default_rng(0).bytes(5000)


# The first column of the table in docs/data.md.
KINDS: dict[str, Callable[[Photos], Odd]] = {
    "JPEG of quality 1 to 100": _qualities,
    "1×1, 1×5000, 7×9, ...": _sizes,
    "4:4:0, 4:1:1, 4:4:1": _samplings,
    "restart markers, progressive, optimised, RGB, grey JPEG": _codings,
    "orientation 1 to 8 in EXIF, XMP": _turned,
    "CMYK, Adobe CMYK and YCCK": _printers,
    "grey, bilevel, grey with alpha": _greys,
    "alpha, transparent colour": _alphas,
    "palette, also transparent": _palettes,
    "16 bits": _deep,
    "colour profile, comment, EXIF thumbnail": _metadata,
    "more bytes or images after the first": _more_after,
    "other ending, none": _misnamed,
    "truncated": _cut,
    "12 bits, arithmetic, 32-bit values, no image": _unusual,
}
