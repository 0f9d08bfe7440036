"""The contract of transforms: what is done to an image between the file and the model.

A transform is a class in `TRANSFORMS` whose objects are called as `t(image, rng)`. `image` is uint8 [H, W, 3]
RGB, `rng` a `numpy.random.Generator` that depends on (seed, epoch, index, copy) alone, so that results don't
depend on the number of worker processes. The result is uint8 [H, W, 3] again; `Normalize` gives float32
[3, H, W], and transforms after it work on that. A class may say more about itself:

- `stage`: the images it works on, a `Stage`; "pixels" by default.
- `output_hw`: height and width of every result.
- `apply(image, rng, epoch, out)`: the call with more to go by, see `BaseTransform`.
- `of_batch(images, streams, empty)`: the call for uint8 [B, H, W, C] with the draws of single images, by
  `rng.Streams`; used where every transform of a list has it. `empty` gives memory for floats.

A subclass that overrides `__call__` alone is called, whatever its parents have beside it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.random import Generator

from passl_sot.config import Registry
from passl_sot.imageio.lazy_image import LazyImage, as_array

TRANSFORMS: Registry = Registry("transform", "passl_sot.data.transforms")

Transform = Callable[..., np.ndarray]
Images = Sequence[np.ndarray] | np.ndarray
Empty = Callable[..., np.ndarray]  # gives memory for an array of a shape and a type, as `numpy.empty`
Out = np.ndarray | None
# uint8 images; uint8 images that must be RGB; uint8 to float32; float32 images; whole batches.
Stage = Literal["pixels", "rgb", "normalize", "normalized", "batch"]
# A transform as `Compose` runs it: image, rng, epoch and out, as of `BaseTransform.apply`.
Step = Callable[[LazyImage, Any, int, Out], LazyImage]


class BaseTransform:
    """A transform that is written as `apply`; calling it is derived from that."""

    def __call__(self, image: LazyImage, rng: Generator) -> np.ndarray:
        """The image after the transform.

        Args:
            image: The image.
            rng: Source of the draws.
        """
        return as_array(self.apply(image, rng))

    def apply(self, image: LazyImage, rng: Generator, epoch: int = 0, out: Out = None) -> LazyImage:
        """The image after the transform, which may be left to be made as far as the next one asks for it.

        Args:
            image: The image; a lazy one makes no more of its pixels than are asked for.
            rng: Source of the draws.
            epoch: Counted from 0.
            out: Memory for the pipeline's result, float32 [C, H, W]; a result of that shape may be written
                to it and it be returned. If `image` is `out` itself, it may be changed in place.
        """
        raise NotImplementedError


def stage_of(transform: Any) -> Stage:
    """The images that a transform works on."""
    return getattr(transform, "stage", "pixels")


def own_method(transform: Any, name: str) -> Any:
    """A transform's method; None where it has none, or a subclass overrides `__call__` alone."""
    for kind in type(transform).__mro__:
        if name in vars(kind):
            return getattr(transform, name)
        if "__call__" in vars(kind):
            break  # it knows better than `name` of a parent, which would pass it by
    return None


def make_step(transform: Any) -> Step:
    """The transform as a step of a pipeline."""
    # A partial, since workers get pipelines as pickles.
    return own_method(transform, "apply") or functools.partial(_call, transform)


def _call(transform: Transform, image: LazyImage, rng: Generator, epoch: int, out: Out) -> np.ndarray:
    return transform(as_array(image), rng)


def output_size(transforms: Sequence[Any]) -> tuple[int, int] | None:
    """Height and width of every result of these transforms, or None where they depend on the input."""
    return next((t.output_hw for t in reversed(transforms) if hasattr(t, "output_hw")), None)


def loops() -> Any:
    """The compiled loops over pixels; only where numba is installed."""
    # Imported at the first use, as numba takes half a second.
    from passl_sot.imageio.kernels import layout

    return layout


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raises a ValueError unless a rule holds, such as "be 0 or more"."""
    if not holds:
        raise ValueError(f"{name} is {value}; it must {rule}")


# Of a side that images are brought to; one of 3 channels has 805 MB then.
_MOST_PIXELS = 2**14


def height_width(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """A size of one number, or of [height, width], as two; others are a ValueError."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    require(len(pair) == 2, name, list(pair), "be one number or [height, width]")
    require(min(pair) >= 1, name, size, "be 1 or more")
    require(max(pair) <= _MOST_PIXELS, name, size, f"be {_MOST_PIXELS:,} or less")
    return pair[0], pair[1]


def bounds(name: str, pair: Sequence[float], highest: float = math.inf) -> tuple[float, float]:
    """Two values in order, above 0 and at most `highest`; others are a ValueError."""
    if len(pair) != 2:
        raise ValueError(f"{name} is {list(pair)}; it needs two values, lowest and highest")
    low, high = pair
    rule = "hold 0 < lowest <= highest"
    if math.isfinite(highest):
        rule += f" <= {highest:g}"
    require(0 < low <= high <= highest and math.isfinite(high), name, f"[{low}, {high}]", rule)
    return float(low), float(high)
