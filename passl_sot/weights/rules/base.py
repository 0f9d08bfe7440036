"""The rules that a family may set for its weights in other projects' files."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

Rules = tuple[tuple[str, str], ...]

# Official models have the backbone's parameters at the top; heads are renamed by a rule before this one.
TO_BACKBONE = (r"^(?!head\.)", "backbone.")
# The convolutions over the image of a `patch_embed`, whose tokens may come from a stem.
IMAGE_WEIGHTS = tuple(f"patch_embed.{name}.weight" for name in ("proj", "tokens.stem.0", "tokens.proj"))


class KeyRules:
    r"""Names and layouts of a family's weights; a family's own rules bear the name of its backbone's class.

    Rules are pairs of a regular expression and its replacement, all applied in order. Names of this
    project are those of a ``Classifier``: ``backbone.*``, ``head.*``.
    """

    # From names of the authors' PyTorch state dict to names of this project.
    official: Rules = (TO_BACKBONE,)
    # The same for other namings ("timm", "PaddleClas", "PASSL"), by their names; each starts from the foreign
    # file's own names. The naming that accounts for all keys is taken.
    foreign: Mapping[str, Rules] = MappingProxyType({})
    # The way back. A conversion checks that `official` leads every name back to where it came from.
    to_official: Rules = (
        (r"^backbone\.", ""),
        (r"^head\.(fc|head)\.", "head."),
        (r"^head\.head_dist\.", "head_dist."),
    )
    # Tables that the model computes (buffers that are not saved, by regular expressions of their names in the
    # backbone) and that official state dicts hold all the same. A file's table for which a model of this size
    # has no use is left aside.
    tables: tuple[str, ...] = (r"(.*\.)?pos_embed",)
    # Regular expressions of official names of 1×1 convolutions that are a Linear here.
    pointwise: tuple[str, ...] = ()
    # Names in the backbone of convolutions over the image, of which at most one is there; their weights
    # follow `in_chans` when weights of other channels are loaded.
    input_weights: tuple[str, ...] = ()

    def __init__(self, *, backbone: Any) -> None:
        self.backbone = backbone

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry of a foreign state dict as this model takes it, such as a resized position table.

        Called for every entry of the backbone before its shape is checked.

        Args:
            name: Its name in the backbone (after the rules, without ``backbone.``).
            array: Its value, laid out as in the file.

        Returns:
            The value to take, in the same layout; the array itself where nothing is to be done.

        Raises:
            ValueError: It can't be adapted; the message becomes part of the report.
        """
        return array

    def adapt_input(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry over the channels of the image, for images of the backbone's ``in_chans`` channels.

        Called before ``adapt``, with the array laid out as in PyTorch; otherwise like it.
        """
        if name not in self.input_weights or array.ndim != 4:
            return array
        return adapt_channels(array, self.backbone.in_chans)

    def restore(self, name: str, array: np.ndarray) -> np.ndarray:
        """The reverse of ``adapt``, for an entry laid out as in PyTorch."""
        return array


def adapt_channels(weight: np.ndarray, in_chans: int) -> np.ndarray:
    """Weights over the channels of an image, for an image with another number of channels.

    Args:
        weight: ``[out, channels, ...]`` over 1 or 3 channels.
        in_chans: Channels wanted.

    Returns:
        ``[out, in_chans, ...]`` in the weights' type; the weights themselves where nothing changes.

    Raises:
        ValueError: The weights are over another number of channels, which have no order to repeat.
    """
    # As in timm: for one channel the weights of all are added, so that a gray image means the same as in
    # three equal channels; for others the channels are repeated in turn and scaled by old over new, which
    # keeps that for multiples of three and is near to it elsewhere.
    old = weight.shape[1]
    if old == in_chans:
        return weight
    if in_chans == 1:
        # In float64: the sum of three rounds once.
        return weight.sum(axis=1, keepdims=True, dtype=np.float64).astype(weight.dtype)
    if old not in (1, 3):
        raise ValueError(
            f"weights over {old} image channels can't be brought to {in_chans}, only over 1 or 3"
        )
    repeated = weight[:, np.arange(in_chans) % old].astype(np.float64)
    return (repeated * (old / in_chans)).astype(weight.dtype)
