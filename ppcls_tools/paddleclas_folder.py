"""Lays an exported folder out for PaddleClas 2.6, and prints the call that predicts as here.

    python -m ppcls_tools.paddleclas_folder exported/ for_paddleclas/

PaddleClas wants a file `inference.pdmodel`, which is empty and never read, and no `inference.yml`: sizes,
mean, std, filter and class names go into its call. Needs PyYAML alone.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

# PaddleClas writes filters in its own letters, and its steps stand at these places of its list.
_FILTERS = {"NEAREST": "nearest", "BILINEAR": "bilinear", "BICUBIC": "bicubic", "LANCZOS4": "lanczos"}
_PLACES = {"ResizeImage": 0, "CropImage": 1, "NormalizeImage": 2}
# Of Paddle 3 and PaddleClas 2.6 together: memory is optimized without being told so.
ONE_LINE = "paddle.inference.Config.enable_memory_optim = lambda self, *rest: None"


class FolderError(ValueError):
    """PaddleClas can't use the export."""


def lay_out(source: Path, target: Path) -> dict[str, Any]:
    """Copies what PaddleClas reads; gives the arguments of `paddleclas.PaddleClas` for Paddle Inference.

    With `Global.use_onnx=True` among those of `override` it takes `inference.onnx` instead.

    Raises:
        FolderError: The target is there; or PaddleClas can't prepare the model's images.
    """
    file = source / "inference.yml"
    if not file.is_file():
        raise FolderError(f"{source} is no exported model: it has no {file.name}")
    card = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "PreProcess" not in card:
        raise FolderError(f"PaddleClas can't prepare these images; the first line of {file} says why")
    if "Topk" not in card["PostProcess"]:
        raise FolderError("PaddleClas's own ways with several labels an image are for its own models")
    steps = {
        name: settings for step in card["PreProcess"]["transform_ops"] for name, settings in step.items()
    }
    # It always crops, and by default resizes the shorter side.
    steps = {"CropImage": {"size": steps["ResizeImage"].get("size")}, **steps}
    steps["ResizeImage"] = {"resize_short": None, **steps["ResizeImage"]}
    override = ["Global.use_gpu=False"]
    for name, place in _PLACES.items():
        override += _settings(f"PreProcess.transform_ops.{place}.{name}", steps[name])
    if target.exists():
        raise FolderError(f"{target} is there already: name another folder")
    target.mkdir(parents=True)
    names = ("inference.json", "inference.pdiparams", "inference.onnx", "labels.txt")
    for name in names:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
    (target / "inference.pdmodel").touch()
    labels = str(target / "labels.txt")
    return {"inference_model_dir": str(target), "class_id_map_file": labels, "override": override}


def _settings(place: str, settings: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in settings.items():
        if key == "interpolation":
            value = _FILTERS[value]
        # Without spaces: PaddleClas evaluates what stands behind the sign.
        lines.append(f"{place}.{key}={str(value).replace(' ', '')}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("source", type=Path, help="folder that `passl-sot export` wrote")
    parser.add_argument("target", type=Path, help="new folder")
    args = parser.parse_args(argv)
    try:
        arguments = lay_out(args.source, args.target)
    except (FolderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("import paddle\nfrom paddleclas import PaddleClas\n")
    print(f"{ONE_LINE}  # not with onnxruntime")
    print(f"options = {arguments!r}")
    print('# options["override"] += ["Global.use_onnx=True"]  # by onnxruntime')
    print('print(list(PaddleClas(**options).predict("image.jpg")))')
    return 0


if __name__ == "__main__":
    sys.exit(main())
