"""The conversion of a file, from reading it to the card beside the result."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors.numpy import save as serialize

from passl_sot.interop.convert import convert_state_dict
from passl_sot.interop.export_torch import export_state_dict
from passl_sot.interop.report import ConversionError, ConversionReport
from passl_sot.interop.verify import check_logits
from passl_sot.modeling.classifier import Classifier
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__
from passl_sot.weights import CheckpointError
from passl_sot.weights.find import Source, StateDict, find_state_dict, read_source
from passl_sot.weights.pdparams import same_arrays, write_whole

log = get_logger()


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A request to convert a file."""

    src: str | Path
    dst: str | Path  # `.pdparams`, or `.safetensors` with `to_torch`
    key: str | None = None  # dotted key of the state dict in the file; None looks at the usual places
    verify: str | Path | None = None  # `.npz` with `input` and `logits` or `logits_f64`, which it must give
    tolerance: float | None = None  # largest difference of logits over max(1, their std); None for the usual
    license: str = "not stated"  # of the weights, as the user knows it
    new_head: bool = False  # whether the last layers may be left new
    to_torch: bool = False  # from this project to official PyTorch names


def convert_file(request: Conversion, config: str, model_section: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a file and writes the result and its card; on any failure nothing is written.

    Args:
        request: The files and options.
        config: Name of the config, for the card that is returned.
        model_section: Its `model:` section.

    Raises:
        CheckpointError: The source can't be read, or the result can't be written.
        ConversionError: It doesn't fit the model, or gives other logits than `verify` says.
    """
    src = Path(request.src)
    dst = Path(request.dst)
    source = read_source(src)
    if dst.exists() and dst.samefile(src):
        raise CheckpointError(f"{dst} is the source itself: give the result another name")
    if request.to_torch and source.layout != "paddle":
        raise CheckpointError(f"{src} is a {source.kind}; --to-torch takes weights of this project")
    state = find_state_dict(source, request.key)
    log.info("%s: %s; %s", src, source.kind, state)
    paddle.seed(0)  # layers that are left new are then the same every time
    model = Classifier(architecture=model_section["architecture"], head=model_section["head"])
    model.eval()
    arrays, report = convert_state_dict(model, state.arrays, layout=source.layout, new_head=request.new_head)
    report.ignored += [(name, f"a {kind}, no tensor") for name, kind in state.skipped]
    if not report.ok:
        raise ConversionError(f"{src} for {config}: {report}")
    log.info("%s", report)
    # In the model's order; new layers with the model's own values.
    arrays = {name: arrays.get(name, value.numpy()) for name, value in model.state_dict().items()}
    odd = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if odd:
        log.warning("%d entries are not finite, such as %s", len(odd), odd[0])
    card = _card(request, source, state, report, config, model_section)
    _write(dst, arrays, model, request, card)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    try:
        write_whole(dst.with_suffix(".json"), lambda path: path.write_text(text, encoding="utf-8"))
    except CheckpointError:
        dst.unlink()  # weights without a word on their origin are not left behind
        raise
    log.info("wrote %s (%.1f MB) and %s", dst, dst.stat().st_size / 1e6, dst.with_suffix(".json").name)
    return card


def _write(
    dst: Path, arrays: dict[str, np.ndarray], model: Classifier, request: Conversion, card: dict[str, Any]
) -> None:
    if request.to_torch:
        arrays = export_state_dict(model, arrays)

    def write(path: Path) -> None:
        if request.to_torch:
            path.write_bytes(serialize(arrays, metadata={"format": "pt"}))
        else:
            paddle.save({name: paddle.to_tensor(value) for name, value in arrays.items()}, str(path))

    # The file is read back, under a temporary name: stored numbers are checked, not those in memory.
    def check(path: Path) -> None:
        written = find_state_dict(read_source(path)).arrays
        same_arrays(written, arrays, dst)
        if request.to_torch:
            written = convert_state_dict(model, written)[0]
        values: dict[str, Any] = dict(written)  # Paddle takes arrays, though it names tensors alone
        model.set_state_dict(values)
        if request.verify is not None:
            card["verified"] = check_logits(model, Path(request.verify), request.tolerance)

    write_whole(dst, write, check)


def _card(
    request: Conversion,
    source: Source,
    state: StateDict,
    report: ConversionReport,
    config: str,
    model_section: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "file": Path(request.dst).name,
        "source": {
            "file": source.path.name,
            "sha256": _sha256(source.path),
            "kind": source.kind,
            "key": state.key,
            "other_keys": state.others,
        },
        "license": request.license,
        "config": config,
        "model": json.loads(json.dumps(model_section)),
        "direction": "to torch" if request.to_torch else "to paddle",
        "naming": report.naming,
        "keys": {"loaded": len(report.loaded), "ignored": len(report.ignored)},
        "key_map_sha256": _key_map_digest(report),
        "resized": [[name, list(got), list(taken)] for name, got, taken in report.adapted],
        "channels": [[name, list(got), list(taken)] for name, got, taken in report.channels],
        "left_new": report.left_new,
        "verified": None,
        "versions": {
            "passl_sot": __version__,
            "paddle": paddle.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _key_map_digest(report: ConversionReport) -> str:
    """Digest of the pairs of names; equal for two files whose keys were mapped alike."""
    lines = [f"{source}\t{target}\n" for target, source in report.sources.items()]
    lines += [f"{name}\t\n" for name, _ in report.ignored]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()
