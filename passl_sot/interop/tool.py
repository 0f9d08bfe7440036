"""The conversion of a file, from reading it to the card beside the result."""

import argparse
import hashlib
import io
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from safetensors.numpy import save as serialize

from passl_sot.interop.convert import convert_state_dict, export_state_dict
from passl_sot.interop.report import ConversionError, ConversionReport
from passl_sot.modeling.schema import ModelSection
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__
from passl_sot.weights import CheckpointError, reading
from passl_sot.weights.budget import Budget
from passl_sot.weights.checkpoint import explained, write_whole
from passl_sot.weights.find import Source, StateDict, find_state_dict, read_npz, read_source

log = get_logger()

_TOLERANCES = {"logits": 1e-5, "logits_f64": 1e-8}


@dataclass
class Converted:
    """A file's weights as a model takes them."""

    state: StateDict
    model: nn.Layer  # with weights of its own
    arrays: dict[str, np.ndarray]  # every entry of the model's state dict, in its order
    report: ConversionReport


def convert_source(
    source: Source, section: ModelSection, *, name: str, key: str | None = None, new_head: bool = False
) -> Converted:
    """The weights of a file of any kind, for a model; logs what became of every key.

    Args:
        section: The model.
        name: Its name, for messages.
        key: The state dict in the file; None for the usual one.
        new_head: As of `convert_state_dict`.

    Raises:
        CheckpointError: The file can't be read.
        ConversionError: It doesn't fit the model.
    """
    state = find_state_dict(source, key)
    log.info("%s: %s; %s", source.path, source.kind, state)
    paddle.seed(0)  # layers that are left new are then the same every time
    model = section.build()
    model.eval()
    arrays, report = convert_state_dict(model, state.arrays, layout=source.layout, new_head=new_head)
    report.ignored += [(name, f"a {kind}, no tensor") for name, kind in state.skipped]
    if not report.ok:
        raise ConversionError(f"{source.path} for {name}: {report}")
    log.info("%s", report)
    # In the model's order; new layers with the model's own values.
    arrays = {name: arrays.get(name, value.numpy()) for name, value in model.state_dict().items()}
    odd = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if odd:
        log.warning("%d entries are not finite, such as %s", len(odd), odd[0])
    return Converted(state, model, arrays, report)


def convert_file(args: argparse.Namespace, config: str, section: ModelSection) -> None:
    """Converts a file and writes the result and its card; on any failure nothing is written.

    Args:
        args: The options of `tools/convert_torch.py`.
        config: Name of the config, for the card.
        section: Its model.

    Raises:
        CheckpointError: The source can't be read, or the result can't be written.
        ConversionError: It doesn't fit the model, or gives other logits than `args.verify` says.
    """
    src = Path(args.src)
    dst = Path(args.dst)
    source = read_source(src)
    if dst.exists() and dst.samefile(src):
        raise CheckpointError(f"{dst} is the source itself: give the result another name")
    if args.to_torch and source.layout != "paddle":
        raise CheckpointError(f"{src} is a {source.kind}; --to-torch takes weights of this project")
    new_head = args.num_classes is not None and not args.to_torch
    found = convert_source(source, section, name=config, key=args.key, new_head=new_head)
    _write(args, found.arrays, found.model, _card(args, source, found.state, found.report, config, section))


def _write(
    args: argparse.Namespace, arrays: dict[str, np.ndarray], model: nn.Layer, card: dict[str, Any]
) -> None:
    weights = Path(args.dst)
    description = weights.with_suffix(".json")
    content = io.BytesIO()
    if args.to_torch:
        content.write(serialize(export_state_dict(model, arrays), metadata={"format": "pt"}))
    else:
        paddle.save({name: paddle.to_tensor(value) for name, value in arrays.items()}, content)
    if args.verify is not None:
        values: dict[str, Any] = dict(arrays)  # Paddle takes arrays, though it names tensors alone
        model.set_state_dict(values)
        card["verified"] = _check_logits(model, Path(args.verify), args.tolerance)
    with explained(weights, ""):
        write_whole(weights, content.getvalue())
    try:
        with explained(description, ""):
            write_whole(description, (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    except CheckpointError:
        weights.unlink()  # weights without a word on their origin are not left behind
        raise
    log.info("wrote %s (%.1f MB) and %s", weights, weights.stat().st_size / 1e6, description.name)


def _card(
    args: argparse.Namespace,
    source: Source,
    state: StateDict,
    report: ConversionReport,
    config: str,
    section: ModelSection,
) -> dict[str, Any]:
    # Equal for two files whose keys were mapped alike.
    pairs = [f"{source}\t{target}\n" for target, source in report.sources.items()]
    pairs += [f"{name}\t\n" for name, _ in report.ignored]
    return {
        "file": Path(args.dst).name,
        "source": {
            "file": source.path.name,
            "sha256": source.sha256(),
            "kind": source.kind,
            "key": state.key,
            "other_keys": state.others,
        },
        "license": args.license,
        "config": config,
        "model": {"architecture": section.architecture, "head": section.head},
        "direction": "to torch" if args.to_torch else "to paddle",
        "naming": report.naming,
        "keys": {"loaded": len(report.loaded), "ignored": len(report.ignored)},
        "key_map_sha256": hashlib.sha256("".join(sorted(pairs)).encode()).hexdigest(),
        "resized": report.adapted,
        "channels": report.channels,
        "new_rows": report.extended,
        "zeros": report.zeros,
        "left_new": report.left_new,
        "verified": None,
        "versions": {
            "passl_sot": __version__,
            "paddle": paddle.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _check_logits(model: nn.Layer, fixture: Path, tolerance: float | None) -> dict[str, Any]:
    """Compares the model's logits with a fixture's, for the card; the model is float64 afterwards."""
    names = [spec.name for spec in model.backbone.input_specs()]
    if names == ["image"]:
        names = ["input"]
    inputs, arrays = _read_fixture(fixture, names)
    model.to(dtype="float64")
    model.eval()
    try:
        with paddle.no_grad():
            got = model(*map(paddle.to_tensor, inputs)).numpy()
    except (TypeError, ValueError) as error:
        raise ConversionError(f"{fixture} is for another model: {error}") from None
    results: dict[str, Any] = {"fixture": fixture.name}
    for name, wanted in arrays.items():
        if got.shape != wanted.shape:
            shapes = f"{name} are {list(wanted.shape)}, the model gives {list(got.shape)}"
            raise ConversionError(f"{fixture}: {shapes}")
        wanted = wanted.astype("float64")
        allowed = (tolerance or _TOLERANCES[name]) * max(1.0, float(wanted.std()))
        worst = float(np.abs(got - wanted).max())
        said = f"largest difference {worst:.1e}, tolerance {allowed:.1e}"
        if not worst <= allowed:  # NaN is a failure too
            raise ConversionError(
                f"the model does not give the {name} of {fixture}: {said}; nothing was written"
            )
        log.info("the model gives the %s of %s: %s", name, fixture, said)
        results[name] = {"largest_difference": worst, "tolerance": allowed}
    return results


def _read_fixture(fixture: Path, names: list[str]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """The inputs of these names, and the logits."""
    if not fixture.is_file():
        raise CheckpointError(f"no file {fixture}")
    with reading(fixture):
        found = read_npz(fixture, Budget.of(fixture))
    wanted = {name: found[name] for name in _TOLERANCES if name in found}
    if not wanted or not all(name in found for name in names):
        raise CheckpointError(f"{fixture} needs the arrays {', '.join(names)} and logits (or logits_f64)")
    inputs = [found[name] for name in names]
    # In float64 only the reference's own rounding is left of the difference; numbers of tokens stay whole.
    return [array.astype("f8") if array.dtype.kind == "f" else array for array in inputs], wanted
