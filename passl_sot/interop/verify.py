"""Checks a converted model against logits of the original."""

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl_sot.interop.report import ConversionError
from passl_sot.utils.logger import get_logger
from passl_sot.weights import CheckpointError
from passl_sot.weights.torch_file import ZIP_ERRORS

log = get_logger()

_USUAL = {"logits": 1e-5, "logits_f64": 1e-8}


def check_logits(model: nn.Layer, fixture: Path, tolerance: float | None = None) -> dict[str, Any]:
    """Compares the model's logits with those of a fixture; the model is float64 afterwards.

    Args:
        model: The model.
        fixture: `.npz` with `input` [B, C, H, W], and `logits` or `logits_f64` [B, K] or both.
        tolerance: Largest difference allowed, over max(1, std of the logits); None for 1e-5, and 1e-8 for
            `logits_f64`.

    Returns:
        Fixture, largest difference and tolerance, for the card.

    Raises:
        CheckpointError: The fixture can't be read or has no such arrays.
        ConversionError: The logits differ.
    """
    arrays = _read(fixture)
    # In float64 only the reference's own rounding is left of the difference.
    model.to(dtype="float64")
    model.eval()
    try:
        with paddle.no_grad():
            got = model(paddle.to_tensor(arrays["input"].astype("float64"))).numpy()
    except ValueError as error:
        raise ConversionError(f"{fixture} is for another model: {error}") from None
    results: dict[str, Any] = {"fixture": fixture.name}
    for name in _USUAL:
        if name in arrays:
            results[name] = _compare(got, arrays[name].astype("float64"), name, fixture, tolerance)
    return results


def _compare(
    got: np.ndarray, wanted: np.ndarray, name: str, fixture: Path, tolerance: float | None
) -> dict[str, float]:
    if got.shape != wanted.shape:
        shapes = f"{name} are {list(wanted.shape)}, the model gives {list(got.shape)}"
        raise ConversionError(f"{fixture}: {shapes}")
    allowed = (tolerance or _USUAL[name]) * max(1.0, float(wanted.std()))
    worst = float(np.abs(got - wanted).max())
    said = f"largest difference {worst:.1e}, tolerance {allowed:.1e}"
    if not worst <= allowed:  # NaN is a failure too
        raise ConversionError(f"the model does not give the {name} of {fixture}: {said}; nothing was written")
    log.info("the model gives the %s of %s: %s", name, fixture, said)
    return {"largest_difference": worst, "tolerance": allowed}


def _read(fixture: Path) -> dict[str, np.ndarray]:
    if not fixture.is_file():
        raise CheckpointError(f"no file {fixture}")
    try:
        with np.load(fixture, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("input", *_USUAL)}
    except (*ZIP_ERRORS, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{fixture} is damaged or no .npz of arrays ({error})") from error
    if "input" not in arrays or len(arrays) < 2:
        raise CheckpointError(f"{fixture} needs the arrays input and logits (or logits_f64)")
    return arrays
