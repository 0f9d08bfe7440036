"""From a model to a folder of files that other programs read."""

import copy
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from passl_sot.config.errors import listing
from passl_sot.engines.base import ENGINES, FILES, FORMAT_OF, STEM, Precision
from passl_sot.export.card import FILE, LABELS, ExportError, plain, read_card, read_facts, write_card
from passl_sot.export.folding import fold
from passl_sot.export.proof import BATCHES, Inputs, prove
from passl_sot.export.quantize import lower
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.tasks.base import Task, task_of
from passl_sot.utils.files import folder_replaced
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.utils.require import check_extra, require_extra
from passl_sot.utils.silence import silenced
from passl_sot.utils.tracing import short_stacks
from passl_sot.version import __version__

FORMATS = tuple(dict.fromkeys(FORMAT_OF.values()))
OPSET = 17
# Tokens of texts to prove a graph by, beside the most that it takes. Not fewer: of a matrix of lower rank a
# normalization of several singular values makes noise.
_LENGTHS = (5, 17)
# What writes a format, and proves it.
_PACKAGES = {"onnx": ("paddle2onnx", "onnxruntime"), "openvino": ("paddle2onnx", "onnxruntime", "openvino")}
# "None": by default it installs packages into the user's environment.
_TO_ONNX = """
import sys, paddle2onnx
program, stem, opset = sys.argv[1:]
files = program, stem + ".pdiparams", stem + ".onnx"
paddle2onnx.export(*files, opset_version=int(opset), optimize_tool="None")
"""
log = get_logger()


def check_target(folder: Path) -> None:
    """Sees that a folder is new or empty, or holds an export and nothing else.

    Raises:
        ExportError: It doesn't; names what it holds.
    """
    if not folder.is_dir():
        if folder.exists():
            raise ExportError(f"{folder} is a file: name a folder to write to")
        return
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    try:
        known = {FILE, LABELS, *read_facts(folder)["files"]}
    except ExportError as error:
        raise ExportError(
            f"{folder} isn't empty and holds no export that could be replaced: name another folder"
        ) from error
    if names - known:
        raise ExportError(
            f"{folder} would be replaced whole, and also holds {listing(sorted(names - known), 5)}: move "
            "that away, or name another folder"
        )


def check_packages(formats: Sequence[str]) -> None:
    """An ExportError where a format isn't known, a MissingExtraError where its packages are missing."""
    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"there is no format {name!r}: choose among {', '.join(FORMATS)}")
        advice = ", or export --formats paddle"
        check_extra(_PACKAGES.get(name, ()), "export", f"the format {name}", advice)


def export_model(
    model: nn.Layer,
    meta: Mapping[str, Any],
    folder: Path,
    formats: Sequence[str] = FORMATS,
    *,
    precision: Precision = "f32",
    calibration: Any = None,
    items: Sequence[Any] = (),
    dynamic: bool = False,
    paddlex_name: str = "",
) -> dict[str, float]:
    """Writes the graph of a model in several formats, proves each, and writes a card.

    The graph has two outputs: probabilities, which PaddleX and PaddleClas read, and logits. The folder is
    written whole or not at all; an export that it holds is replaced.

    Args:
        model: In evaluation mode, its task's inputs to logits `[B, K]`; B stays open, and a text's length.
        meta: The header of its checkpoint.
        folder: Made where it isn't there.
        formats: Among `FORMATS`.
        precision, calibration: As of `quantize.lower`; the graphs in float32 are proven first.
        items: What the task reads, for the proof beside made-up inputs: paths of images, texts.
        dynamic: Whether height and width stay open too.
        paddlex_name: The model's name for PaddleX; by default that of its backbone.

    Returns:
        The greatest difference from the model of each engine; see `proof.compare`.

    Raises:
        ExportError: It can't be written, or an engine computes something else; the folder is as it was.
    """
    check_packages(formats)
    check_target(folder)
    name = type(model.backbone).__name__
    if dynamic and isinstance(model.backbone, TextBackbone):
        raise ExportError(f"{name} takes no images, whose size could be left open; a text's length always is")
    if dynamic and model.backbone.size_obstacle:
        raise ExportError(f"a graph of {name} takes one size of images: {model.backbone.size_obstacle}")
    task = task_of(meta)
    samples = [task.read(item) for item in items]
    lines: list[str] = []
    with folder_replaced(folder) as new, progress_bar(total=3, desc="export") as bar:
        _write_graphs(model, task, new, formats, dynamic)
        bar.update()
        engines = [engine for engine in ENGINES if FORMAT_OF[engine] in formats]
        given = [task.inputs(task.collate(samples))] if samples else []
        differences = prove(new, engines, task, _cases(model, given, dynamic))
        bar.update()
        if precision != "f32":
            lines = lower(new, precision, task, calibration)
        facts = {"precision": precision, "opset": OPSET, "dynamic_size": dynamic, "versions": _versions()}
        rounded = {engine: float(f"{value:.2g}") for engine, value in differences.items()}
        refusal = write_card(new, meta, {**facts, "differences": rounded}, paddlex_name or name)
        _prove_card(new, meta, items, samples)
    if refusal:
        lines.append(f"PaddleX can't use this model: {refusal}")
    _report(differences, lines)
    return differences


def _report(differences: Mapping[str, float], lines: Sequence[str]) -> None:
    for engine, value in differences.items():
        log.info("%s: outputs differ from the model's by at most %.1e", engine, value)
    for line in lines:
        log.info(line)


def _cases(
    model: nn.Layer, given: Sequence[Inputs], dynamic: bool
) -> list[tuple[nn.Layer, Sequence[Inputs]]]:
    """What to prove a graph by: the model and inputs; of open sizes other sizes, of texts other lengths."""
    models = [model]
    for size in _other_sizes(model) if dynamic else ():
        resized = copy.deepcopy(model)
        resized.resize(size)
        models.append(resized)
    cases = [(m, [m.backbone.example_inputs(size, seed=size) for size in BATCHES]) for m in models]
    if isinstance(model.backbone, TextBackbone):
        most = model.backbone.max_positions
        lengths = [min(length, most) for length in (*_LENGTHS, most)]
        cases.append((model, [model.backbone.example_inputs(1, longest=length) for length in lengths]))
    return [(model, given), *cases]


def _other_sizes(model: nn.Layer) -> list[list[int]]:
    """Sizes to prove a graph of open size at, of which one leaves pixels over."""
    height, width = model.backbone.img_size
    stride = model.backbone.feature_info[-1]["reduction"]
    # One side stays: by the shorter one some networks choose their stride.
    return [[height + stride, width], [height, width + 2 * stride + 1]]


def _write_graphs(model: nn.Layer, task: Task, folder: Path, formats: Sequence[str], dynamic: bool) -> None:
    """Writes the files of the formats, and no others."""
    stem = str(folder / STEM)
    specs = model.backbone.input_specs()
    if dynamic:
        specs = [InputSpec([None, model.backbone.in_chans, None, None], "float32", "image")]
        model = copy.deepcopy(model)
        model.backbone.open_size()
    with silenced(), short_stacks():
        paddle.jit.save(_Graph(fold(model), task), stem, input_spec=[specs])
    if {"onnx", "openvino"} & set(formats):
        _convert("onnx", write_onnx, stem)
    if "openvino" in formats:
        _convert("openvino", _write_openvino, stem)
    wanted = {file for engine in ENGINES if FORMAT_OF[engine] in formats for file in FILES[engine]}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def _convert(name: str, write: Callable[[str], None], stem: str) -> None:
    with silenced() as unseen:
        try:
            write(stem)
        except Exception as error:  # of whatever kind the package has; one of them prints what was wrong
            reason = "\n".join(filter(None, (str(error), unseen())))
            raise ExportError(f"this model can't be written as {name}: {reason}") from error


def write_onnx(stem: str) -> None:
    """Writes `STEM.onnx` from `STEM.json` and `STEM.pdiparams`; an ExportError where it can't be."""
    # Paddle 3.3 writes numbers such as a padding's value in float64. paddle2onnx 2.1.0 reads float32 alone,
    # and takes whatever its memory holds for the others (its issue 1646).
    program = Path(f"{stem}.floats.json")
    text = Path(f"{stem}.json").read_text(encoding="utf-8")
    program.write_text(text.replace('"0.a_f64"', '"0.a_f32"'), encoding="utf-8")
    # In a process of its own, which an operator that paddle2onnx doesn't know aborts.
    command = [sys.executable, "-c", _TO_ONNX, str(program), stem, str(OPSET)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    program.unlink()
    if not Path(f"{stem}.onnx").is_file():
        said = f"{done.stdout}\n{done.stderr}".strip().splitlines()
        raise ExportError("\n".join(line for line in said if "Error" in line or "ERROR" in line) or said[-1])
    _fold_constants(stem)


def _fold_constants(stem: str) -> None:
    """Computes what follows from constants alone; NNCF would leave a weight in float that it doesn't see."""
    onnxruntime = require_extra("onnxruntime", "export", "the format onnx")
    options = onnxruntime.SessionOptions()
    # The basic level keeps to operators of the standard, which all engines know.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.optimized_model_filepath = f"{stem}.simple"
    onnxruntime.InferenceSession(f"{stem}.onnx", options, providers=["CPUExecutionProvider"])
    Path(f"{stem}.simple").replace(f"{stem}.onnx")


def _write_openvino(stem: str) -> None:
    openvino = require_extra("openvino", "export", "the format openvino")

    # Not by `convert_model`, which reports its use to its makers.
    model = openvino.Core().read_model(f"{stem}.onnx")
    openvino.save_model(model, f"{stem}.xml", compress_to_fp16=False)


class _Graph(nn.Layer):
    """A model with two outputs: probabilities and logits."""

    def __init__(self, model: nn.Layer, task: Task) -> None:
        super().__init__()
        self.model = model
        self.activate = task.probabilities
        self.eval()

    def forward(self, inputs: list[paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The model's inputs to two of `[B, K]`."""
        logits = self.model(*inputs)
        return self.activate(logits), logits


def _versions() -> dict[str, str]:
    versions = {"passl_sot": __version__, "paddle": paddle.__version__}
    for package in ("paddle2onnx", "onnxruntime", "openvino"):
        if importlib.util.find_spec(package) is not None:
            versions[package] = importlib.metadata.version(package)
    return versions


def _prove_card(
    folder: Path, meta: Mapping[str, Any], items: Sequence[Any], samples: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Reads the folder's card as a user would; an ExportError where it prepares items otherwise."""
    header = read_card(folder)
    if header != plain(meta):
        raise ExportError("the card that was written is not the model's own: please report this")
    task = task_of(header)
    for item, sample in zip(items, samples, strict=True):
        again = task.read(item)
        if any(not np.array_equal(again[key], sample[key]) for key in sample):
            raise ExportError(f"the card that was written prepares {item} otherwise: please report this")
