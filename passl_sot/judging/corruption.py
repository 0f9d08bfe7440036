"""The errors of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261, section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from passl_sot.judging.sets import CORRUPTIONS, ImageSet

# AlexNet's errors, means over the five severities: README.md and issue 10 of github.com/hendrycks/robustness.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN = 0.435  # the paper's table 1


def corruption_errors(
    parts: Sequence[ImageSet], results: Sequence[Mapping[str, float]], clean: Mapping[str, Any] | None
) -> dict[str, Any]:
    """mCE and relative mCE in percent, AlexNet's being 100, by the scores of ImageNet-C's parts.

    Args:
        results: Of each part, with `top1` in percent.
        clean: The row of ImageNet-1K val, or None.

    Returns:
        `mce`; `relative_mce` where there is such a row, of the whole set; `corruptions`: for each one the
        `errors` by severity and `ce`, in percent; `partial` where some are missing.
    """
    errors: dict[str, list[float]] = {}
    for part, scores in zip(parts, results, strict=True):
        errors.setdefault(part.corruption, []).append(100 - scores["top1"])
    # Of each corruption first the mean over its severities, as AlexNet's are.
    table = {
        name: {"errors": found, "ce": float(np.mean(found)) / ALEXNET[name]} for name, found in errors.items()
    }
    row: dict[str, Any] = {
        "mce": float(np.mean([entry["ce"] for entry in table.values()])),
        "corruptions": table,
    }
    # Of other images the clean error would be another one.
    if clean and not clean["partial"]:
        error = 100 - clean["top1"]
        more = [(np.mean(found) - error) / (ALEXNET[name] - ALEXNET_CLEAN) for name, found in errors.items()]
        row["relative_mce"] = float(np.mean(more))
    whole = sum(map(len, CORRUPTIONS.values()))
    lacking = [part.partial for part in parts if part.partial][:1]
    if len(errors) < whole:
        lacking.append(f"{len(errors)} of {whole} corruptions")
    if lacking:
        row["partial"] = "; ".join(lacking)
    return row
