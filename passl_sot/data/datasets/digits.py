"""The handwritten digits of scikit-learn as image files: a small real dataset that needs no download."""

import glob
import os
import shutil

import numpy as np
from PIL import Image

from passl_sot.config import zh
from passl_sot.data.errors import DataError

_NOTE = """Optical recognition of handwritten digits

1,797 images of 8x8 pixels, 10 classes, written as PNG files from scikit-learn's
`sklearn.datasets.load_digits`. In scikit-learn's words, "a copy of the test set of the UCI ML hand-written
digits datasets", https://archive.ics.uci.edu/ml/datasets/Optical+Recognition+of+Handwritten+Digits
Creator: E. Alpaydin, July 1998. scikit-learn is distributed under the BSD 3-Clause licence; its description
of the data states no further terms.

Values 0 to 16 are scaled to 0 to 255. In each class a fifth of the images, drawn with seed {seed}, is in val,
the rest in train. The number in a file's name is the image's place in scikit-learn's array.
"""


def write_digits(root: str, seed: int = 0) -> int:
    """Writes the digits as an ImageNet-layout folder: `root/{train,val}/{0..9}/digit_0001.png`.

    A second call checks every file and writes only those that are missing or damaged.

    Args:
        root: The folder; made where it doesn't exist.
        seed: Chooses which fifth of each class is in val.

    Returns:
        How many files were written; 0 where all were there.

    Raises:
        DataError: scikit-learn isn't installed, or `root` holds files that aren't these.
    """
    images = _expected(seed)
    root = os.path.expanduser(root)
    new = not os.path.exists(root)
    # Hidden files are left out: other programs leave some.
    found = glob.glob("train/**", root_dir=root, recursive=True)
    found += glob.glob("val/**", root_dir=root, recursive=True)
    for path in found:
        if path not in images and os.path.isfile(os.path.join(root, path)):
            raise DataError(
                f"{root} holds {path}, which isn't of the digits with this seed; choose another folder, or "
                "remove this one" + zh("folder_has_other_files")
            )
    try:
        return _fill(root, images, seed)
    except BaseException:
        if new:  # all or nothing: a part of the digits would be trained on without a word
            shutil.rmtree(root, ignore_errors=True)
        raise


def _expected(seed: int) -> dict[str, np.ndarray]:
    """Pixels (uint8 [8, 8]) of each file by its path relative to the root."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which isn't installed: `pip install scikit-learn`"
            + zh("scikit_learn_missing")
        ) from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    generator = np.random.Generator(np.random.PCG64(seed))
    files = {}
    for label in range(10):
        members = generator.permutation(np.flatnonzero(digits.target == label)).tolist()
        for place, index in enumerate(members):
            split = "val" if place < round(len(members) / 5) else "train"
            files[f"{split}/{label}/digit_{index:04d}.png"] = pixels[index]
    return files


def _fill(root: str, images: dict[str, np.ndarray], seed: int) -> int:
    """Writes the files that are missing or differ; returns how many."""
    written = 0
    for path, pixels in images.items():
        target = os.path.join(root, path)
        if _holds(target, pixels):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Image.fromarray(pixels).save(target)
        written += 1
    note = os.path.join(root, "README.txt")
    if not os.path.exists(note):
        with open(note, "w", encoding="utf-8") as file:
            file.write(_NOTE.format(seed=seed))
    return written


def _holds(path: str, pixels: np.ndarray) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.array_equal(np.asarray(image), pixels)
    except (OSError, SyntaxError, ValueError):  # Pillow's SyntaxError: a broken PNG
        return False
