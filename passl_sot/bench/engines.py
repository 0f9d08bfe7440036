"""One model on several engines: speed, latency, memory and numbers of each, in turns.

Each engine runs in a process of its own (`passl_sot.engines.process`), so that its memory is its own.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.engine.schema import Experiment, load_config
from passl_sot.engines import Engine, EngineError, open_engine, process
from passl_sot.engines.base import (
    COMPUTES_IN,
    FORMAT_OF,
    Input,
    Precision,
    difference,
    inputs_of,
    installed,
    missing_files,
)
from passl_sot.engines.paddle_engine import eager
from passl_sot.export.card import read_card
from passl_sot.export.folder import export_model
from passl_sot.launch.cpu_env import usable_threads
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.stats import model_stats
from passl_sot.tasks.base import build_task, header_for, model_section_of, task_of
from passl_sot.utils.peer import Peer, PeerError
from passl_sot.utils.require import require_extra
from passl_sot.utils.table import markdown
from passl_sot.weights import state
from passl_sot.weights.checkpoint import read_weights

EAGER = "eager"
_CHECKED = 3  # inputs whose outputs are compared
_PRODUCT = (1576, 384, 1536)  # the first Linear of DeiT-S's MLP for 8 images
_PERCENTILES = (50, 95, 99)
_SINGLES = 10  # batches of one in a round: percentiles need many


@dataclass
class _Row:
    """What was measured of an engine in a precision."""

    engine: str
    precision: Precision
    peer: Peer
    difference: float = 0.0  # eager's own weights are others: what it gives is the reference itself
    seconds: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def median(self, batch: int, threads: int) -> float:
        """Seconds of a batch, as of `process.counted`."""
        return statistics.median(process.counted(pair, threads) for pair in self.seconds[batch])


def measure_engines(
    source: Experiment | Path,
    *,
    engines: Sequence[str],
    precisions: Sequence[Precision],
    batches: Sequence[int],
    repeats: int = 10,
    weights: str | None = None,
    compare: str | None = None,
) -> dict[str, Any]:
    """Times a model on several engines, batch by batch in turns, after one batch each that warms up.

    Args:
        source: An experiment, whose model is exported to a folder that is gone afterwards; or an exported
            folder, which has no eager model.
        engines: `EAGER` and those of `ENGINES`; what doesn't compute in a precision, or isn't installed, is
            left out.
        batches: Numbers of images, or of texts, of a batch; 1 gives latencies too.
        repeats: Rounds; a batch of one runs ten times in each.
        weights: A checkpoint for the model of an experiment, which otherwise has random ones.
        compare: Command of a `Peer` that runs one batch, of the only size of `batches`.

    Returns:
        threads; items, what a batch has, such as "images"; gflops, thousand millions of operations of one;
        peak_gflops_per_s, by precision, of a matrix product on this machine; peer_seconds, the median of the
        other program or None; refused, reasons by engine; and `rows`, a list with engine, precision,
        images_per_s (of images; by batch, of the median), latency_ms (percentiles at batch 1), memory_gb,
        fraction_of_peak, difference (the greatest from eager's outputs, or Paddle's of a folder, by the
        greatest of these), ratio to the other program. Of one thread, speeds are of processor time; latencies
        are always by the clock.

    Raises:
        EngineError: None of them can compute it.
        PeerError: The other program failed.
    """
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        subject = _prepare(source, engines, weights, Path(scratch))
        refused: dict[str, str] = {}
        rows = _start(subject, engines, precisions, refused, stack)
        if not rows:
            raise EngineError(f"no engine can compute it: {refused or 'none does so in this precision'}")
        _compare(rows, subject.reference, Path(scratch, "output.npy"))
        other = stack.enter_context(Peer(compare)) if compare else None
        products = _products([row.precision for row in rows], subject.threads)
        found, others = _take_turns(rows, batches, repeats, subject.threads, products, other)
        memory = [row.peer.run("memory") for row in rows]
    return _report(subject, list(zip(rows, memory, strict=True)), refused, found, others)


@dataclass
class _Subject:
    """What is measured: files for the engines, a config for the eager model, the outputs to compare with."""

    folder: Path
    config: Path | None
    reference: np.ndarray
    gflops: float
    threads: int
    length: int  # tokens of a text
    items: str  # what the model's inputs are called


def _prepare(
    source: Experiment | Path, engines: Sequence[str], weights: str | None, scratch: Path
) -> _Subject:
    threads = usable_threads()
    if isinstance(source, Path):
        card = read_card(source)
        model = model_section_of(card).build()
        reference = _outputs(open_engine("paddle", source, threads=threads), model)
        items = task_of(card).words.items
        return _Subject(source, None, reference, _gflops(model), threads, _length(model), items)
    model = source.model.build()
    if weights:
        state.load_model(model, read_weights(weights)[0], weights)
    model.eval()
    reference = _outputs(eager(model), model)
    gflops = _gflops(model)
    config = scratch / "run.yaml"
    config.write_text(source.dump(), encoding="utf-8")
    formats = {FORMAT_OF[name] for name in engines if name != EAGER and installed(name)}
    if formats:
        export_model(model, header_for(source), scratch / "model", sorted(formats))
    items = build_task(source.task, source.loss, trial=True).words.items
    return _Subject(scratch / "model", config, reference, gflops, threads, _length(model), items)


def _outputs(engine: Engine, model: Classifier) -> np.ndarray:
    return engine(*process.random_inputs(_inputs(model), _CHECKED, _length(model)))


def _length(model: Classifier) -> int:
    """Tokens of the texts to time a model of texts by."""
    return min(process.LENGTH, getattr(model.backbone, "max_positions", process.LENGTH))


def _inputs(model: Classifier) -> list[Input]:
    return inputs_of(model.backbone.input_specs())


def _gflops(model: Classifier) -> float:
    return 2 * model_stats(model).macs / 1e9


def _start(
    subject: _Subject,
    engines: Sequence[str],
    precisions: Sequence[Precision],
    refused: dict[str, str],
    stack: ExitStack,
) -> list[_Row]:
    rows = []
    for precision in precisions:
        for name in engines:
            if name == EAGER and (subject.config is None or precision != "f32"):
                continue
            if name != EAGER and precision not in COMPUTES_IN[name]:
                continue
            if name != EAGER and missing_files(name, subject.folder):
                refused[name] = "not installed, or not exported"
                continue
            command = process.command(subject.folder, name, precision, subject.threads, subject.length)
            if name == EAGER:
                command = process.module_command(__name__, subject.config, subject.threads, subject.length)
            try:
                rows.append(_Row(name, precision, stack.enter_context(Peer(command))))
            except PeerError as error:
                refused[f"{name} {precision}"] = error.words or str(error)
    return rows


def _compare(rows: Sequence[_Row], reference: np.ndarray, file: Path) -> None:
    """Fills the rows' differences from outputs that are right."""
    for row in rows:
        if row.engine != EAGER:
            row.peer.run(f"save {_CHECKED} {file}")
            row.difference = difference(np.load(file), reference)


def _take_turns(
    rows: Sequence[_Row],
    batches: Sequence[int],
    repeats: int,
    threads: int,
    products: dict[str, list[Callable[[], object]]],
    other: Peer | None,
) -> tuple[dict[str, list[float]], list[float]]:
    """Fills the rows' seconds; gives GFLOP/s of products by precision, and the other program's seconds."""
    speeds: dict[str, list[float]] = {name: [] for name in products}
    others: list[float] = []
    for number in range(-1, repeats):
        for batch in batches:
            runs = 1
            if batch == 1 and number >= 0:
                runs = _SINGLES
            for row in rows:
                pairs = [tuple(row.peer.ask(f"time {batch}")) for _ in range(runs)]
                if number >= 0:  # the first warmed up
                    row.seconds.setdefault(batch, []).extend(pairs)
        if other:
            others.append(other.run())
        for name, runners in products.items():
            speeds[name] += [_speed(run, threads) for run in runners]
    return speeds, others[1:]


def _speed(run: Callable[[], object], threads: int) -> float:
    """GFLOP/s of the product, by the best of a few."""
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = []
    for _ in range(8):
        began = clock()
        run()
        seconds.append(clock() - began)
    return 2e-9 * float(np.prod(_PRODUCT)) / min(seconds)


def _products(precisions: Sequence[str], threads: int) -> dict[str, list[Callable[[], object]]]:
    """By precision, the same matrix product by NumPy (f32) and OpenVINO."""
    rows, inner, columns = _PRODUCT
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, inner), np.float32)
    right = rng.standard_normal((inner, columns), np.float32)
    found: dict[str, list[Callable[[], object]]] = {}
    if "f32" in precisions:
        found["f32"] = [lambda: left @ right]
    if not installed("openvino"):
        return found
    openvino = require_extra("openvino", "export", "its matrix product")
    from openvino import opset13

    for precision in {"f32", "bf16"}.intersection(precisions):
        given = opset13.parameter([rows, inner], np.float32)
        graph = openvino.Model([opset13.matmul(given, opset13.constant(right), False, False)], [given])
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(left))
        found.setdefault(precision, []).append(request.infer)
    return found


def _report(
    subject: _Subject,
    rows: Sequence[tuple[_Row, float]],
    refused: dict[str, str],
    speeds: dict[str, list[float]],
    others: Sequence[float],
) -> dict[str, Any]:
    """As `measure_engines` returns it; each row with the memory that it used."""
    peaks = {name: max(values) for name, values in speeds.items()}
    peer_seconds = statistics.median(others) if others else None
    return {
        "threads": subject.threads,
        "items": subject.items,
        "gflops": subject.gflops,
        "peak_gflops_per_s": peaks,
        "peer_seconds": peer_seconds,
        "refused": refused,
        "rows": [_figures(row, memory, subject, peaks, peer_seconds) for row, memory in rows],
    }


def _figures(
    row: _Row, memory: float, subject: _Subject, peaks: dict[str, float], peer_seconds: float | None
) -> dict[str, Any]:
    medians = {batch: row.median(batch, subject.threads) for batch in row.seconds}
    speeds = {str(batch): batch / seconds for batch, seconds in medians.items()}
    latency = {}
    if 1 in row.seconds:
        values = np.percentile([by_clock for by_clock, _ in row.seconds[1]], _PERCENTILES)
        latency = {f"p{p}": 1e3 * float(v) for p, v in zip(_PERCENTILES, values, strict=True)}
    peak = peaks.get(row.precision)
    ratio = None
    if peer_seconds:
        (seconds,) = medians.values()
        ratio = peer_seconds / seconds
    return {
        "engine": row.engine,
        "precision": row.precision,
        f"{subject.items}_per_s": speeds,
        "latency_ms": latency,
        "memory_gb": memory,
        "fraction_of_peak": peak and max(speeds.values()) * subject.gflops / peak,
        "difference": row.difference,
        "ratio": ratio,
    }


def table(result: dict[str, Any]) -> list[str]:
    """The rows of `measure_engines` as Markdown."""
    rows = result["rows"]
    items = result["items"]
    batches = list(rows[0][f"{items}_per_s"])
    heads = ["engine", "numbers", *(f"{items}/s at {batch}" for batch in batches)]
    heads += [*(f"{name} (ms)" for name in rows[0]["latency_ms"]), "memory (GB)", "of peak", "difference"]
    heads += ["ratio"] * bool(result["peer_seconds"])
    lines = []
    for row in rows:
        cells = [row["engine"], row["precision"]]
        cells += [f"{row[f'{items}_per_s'][batch]:.1f}" for batch in batches]
        cells += [f"{value:.1f}" for value in row["latency_ms"].values()]
        cells.append(f"{row['memory_gb']:.2f}")
        cells.append("" if row["fraction_of_peak"] is None else f"{row['fraction_of_peak']:.2f}")
        cells.append(f"{row['difference']:.0e}" if row["difference"] else "0")
        if row["ratio"]:
            cells.append(f"{row['ratio']:.2f}")
        lines.append(cells)
    return markdown(heads, lines)


def _main() -> None:
    """The eager model of a config in a process of its own, with weights that are new."""
    config, threads, length = sys.argv[1:]

    def open_one() -> tuple[Engine, list[Input]]:
        model = load_config(config).model.build()
        model.eval()
        return eager(model, int(threads)), _inputs(model)

    process.answer(open_one, int(length))


if __name__ == "__main__":
    _main()
