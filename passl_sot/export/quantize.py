"""The same graphs in fewer bits."""

from pathlib import Path
from typing import Any

from passl_sot.engines.base import Precision
from passl_sot.export.card import ExportError


def lower(folder: Path, precision: Precision, calibration: Any) -> list[str]:
    """Changes the graphs of a folder to another arithmetic; called after the proof of those in float32.

    Args:
        folder: Holds the graphs of the formats asked for.
        precision: "bf16" or "int8".
        calibration: A `data.LabelledImages` prepared as the model's card says, or None where there is none.

    Returns:
        Lines that state the change of top-1 and of the logits.
    """
    raise ExportError(f"--precision {precision} is not available yet: export float32")
