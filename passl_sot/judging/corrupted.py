"""ImageNet-C's corruptions made here, of validation images, as its authors made their files.

The corruptions are those of the package imagecorruptions-imaug, which follows the authors' code.
"""

import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image

from passl_sot.data import LabelledImages
from passl_sot.data.transforms.image import CenterCrop, Resize
from passl_sot.imageio.lazy_image import LazyImage, as_array
from passl_sot.utils.cache import versions_of
from passl_sot.utils.require import check_extra

_PACKAGE = "imagecorruptions-imaug==1.1.5"
_ADVICE = (
    f", then `pip install --no-deps {_PACKAGE}` (without --no-deps a second OpenCV would overwrite parts of "
    "the one that is here)"
)
# What the pixels depend on.
_MAKERS = (_PACKAGE.partition("=")[0], "scikit-image", "scipy", "numba", "opencv-python-headless", "pillow")
# Those that don't draw from NumPy's global source, but take a seed.
_SEEDED = ("impulse_noise", "glass_blur")
_QUALITY = 85  # of the authors' JPEG files


def check_packages() -> None:
    """Looks for the packages that make corruptions; a MissingExtraError says how to install them."""
    check_extra(["skimage", "imagecorruptions"], "judging", "making corruptions", _ADVICE)


def makers() -> list[str]:
    """The versions of the packages that the pixels depend on."""
    return versions_of(_MAKERS)


def corrupt(image: np.ndarray, corruption: str, severity: int, name: str) -> np.ndarray:
    """An image as ImageNet-C would have it, compressed as its files are.

    Args:
        image: uint8 [H, W, 3], of at least 32 pixels each way; the authors' have 224.
        corruption: One of `sets.CORRUPTIONS`.
        severity: 1 to 5.
        name: Of the image; all that is drawn depends on it, the corruption and the severity alone.

    Returns:
        uint8 [H, W, 3].
    """
    from imagecorruptions import corrupt as make

    text = f"{name}/{corruption}/{severity}".encode("utf-8", "surrogateescape")
    seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
    own: dict[str, Any] = {"seed": seed} if corruption in _SEEDED else {}
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        found = make(image, severity, corruption, **own)
    finally:
        np.random.set_state(before)
    file = io.BytesIO()
    Image.fromarray(found).save(file, "JPEG", quality=_QUALITY)
    return np.array(Image.open(file))


class CorruptedImages(LabelledImages):
    """Images that are corrupted as they are read, before any transform; 224 pixels wide and high.

    Args:
        corruption, severity: As of `corrupt`.
        options: As of `LabelledImages`.
    """

    def __init__(self, corruption: str, severity: int, **options: Any):
        super().__init__(**options)
        self.corruption = corruption
        self.severity = severity
        # Theirs, with Pillow's filter of that time.
        self._resize = Resize(size=256, interpolation="bilinear")
        self._crop = CenterCrop(size=224)

    def open(self, index: int) -> LazyImage:
        """As of `LabelledImages`, the corrupted image."""
        image = super().open(index)
        for transform in (self._resize, self._crop):
            image = transform.apply(image, None)  # type: ignore[arg-type]  # neither draws anything
        # By the file's own name, which is the same in folders by class and in one folder.
        name = self.paths[index].rpartition("/")[2]
        return corrupt(as_array(image), self.corruption, self.severity, name)
