"""Weights of a network's first layer brought to another number of image channels."""

import numpy as np

__all__ = ["adapt_channels"]


def adapt_channels(weight: np.ndarray, in_chans: int) -> np.ndarray:
    """Weights over the colours of an image for an image with another number of channels.

    As in timm: for one channel the weights of all are added, so that a grey image means what it meant
    in three equal ones; for others the channels are repeated in turn and scaled by old over new, which
    keeps that for multiples of three and is near to it elsewhere.

    Args:
        weight: ``[out, channels, ...]`` over 1 or 3 channels.
        in_chans: Channels wanted.

    Returns:
        ``[out, in_chans, ...]`` in the weights' type; the weights themselves where nothing changes.

    Raises:
        ValueError: The weights are over another number of channels, which have no order to repeat.
    """
    old = weight.shape[1]
    if old == in_chans:
        return weight
    if in_chans == 1:
        return weight.sum(axis=1, keepdims=True, dtype=np.float64).astype(weight.dtype)
    if old not in (1, 3):
        raise ValueError(
            f"weights over {old} image channels can't be brought to {in_chans}, only over 1 or 3"
        )
    repeated = weight[:, np.arange(in_chans) % old].astype(np.float64)
    return (repeated * (old / in_chans)).astype(weight.dtype)
