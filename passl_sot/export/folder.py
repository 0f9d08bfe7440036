"""From a model to a folder of files that other programs read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from passl_sot.engines.base import STEM
from passl_sot.export.card import write_card

FORMATS = ("paddle", "onnx", "openvino")


def export_model(
    model: nn.Layer, meta: Mapping[str, Any], folder: Path, formats: Sequence[str] = FORMATS
) -> None:
    """Writes the graph of a model for images in several formats, and its card.

    Args:
        model: In evaluation mode: images `[B, C, H, W]` to logits `[B, K]`; B stays open.
        meta: The header of its checkpoint.
        folder: Made where it isn't there.
        formats: Among `FORMATS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = str(folder / STEM)
    images = [None, model.backbone.in_chans, *model.backbone.img_size]
    paddle.jit.save(model, stem, input_spec=[InputSpec(images, "float32", "image")])
    if {"onnx", "openvino"} & set(formats):
        import paddle2onnx

        # "None": by default it installs packages into the user's environment.
        paddle2onnx.export(
            f"{stem}.json",
            f"{stem}.pdiparams",
            save_file=f"{stem}.onnx",
            opset_version=17,
            optimize_tool="None",
        )
    if "openvino" in formats:
        import openvino

        openvino.save_model(openvino.convert_model(f"{stem}.onnx"), f"{stem}.xml", compress_to_fp16=False)
    write_card(folder, meta)
