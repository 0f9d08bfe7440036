"""Predictions with class names, by the preprocessing that travels in the checkpoint."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from passl_sot.config import UserError
from passl_sot.data.errors import ItemError
from passl_sot.engines import ENGINES, Engine, EngineError, open_engine
from passl_sot.engines.base import (
    FILES,
    FORMAT_OF,
    PACKAGES,
    Precision,
    installed_formats,
    require_precision,
)
from passl_sot.engines.choose import choose_engine
from passl_sot.engines.paddle_engine import eager
from passl_sot.engines.process import LENGTH
from passl_sot.export.cached import exported
from passl_sot.export.card import FILE as CARD
from passl_sot.export.card import LABELS, TOKENIZER, ExportError, precision_of, read_card
from passl_sot.metrics.classification import write_table
from passl_sot.tasks.base import Task, check_card, load_trained, task_of
from passl_sot.tasks.classification import Prediction
from passl_sot.tasks.text_classification import TextPrediction
from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.utils.require import MissingExtraError, require_extra
from passl_sot.weights.checkpoint import CheckpointError, is_checkpoint, read_header

AUTO = "auto"
Row = Prediction | TextPrediction  # of the project's own tasks
# Files of an exported folder.
EXPORTED = {CARD, LABELS, TOKENIZER, *(name for names in FILES.values() for name in names)}
# Of a row, what isn't about the item itself.
_OF_CLASSES = ("classes", "names", "probabilities", "error")
_MOST_MEASURED = 8  # of a batch: speed per item changes little beyond


class Predictor:
    """Predicts as evaluation does: same preprocessing and, for classifiers, same class order.

    Args:
        weights: A checkpoint that training wrote (the suffix may be left out), or a folder that
            `passl-sot export` wrote.
        prefer: "raw" or "ema" weights of a checkpoint; default: those by which the run chose its best.
        batch_size: Images computed at once; "openvino" is fastest at full batches.
        top_k: Classes per prediction, clamped to the class count.
        engine: What computes the model: one of `passl_sot.engines.ENGINES`, or "auto", which measures them
            once and remembers. For others than "paddle" a checkpoint is exported once, and the folder kept
            below `passl_sot.utils.cache.cache_folder()`.
        precision: Numbers it computes in; by default those that a folder was exported in, "f32" of a
            checkpoint. "int8" is for a folder exported so.
        threads: Cores to use; by default "paddle" keeps the number of the process (OMP_NUM_THREADS, or 1)
            with a checkpoint, and all others use what the process may use.

    One predictor may serve several threads.

    Attributes:
        engine: Called with arrays, gives the output `[B, K]`; its `name` says which one it is.
        precision: The numbers it computes in.
        task: The task it was trained for, which reads inputs and outputs.
        model: A checkpoint's model, where "paddle" computes it as it is; None where gradients can't be had.

    Raises:
        CheckpointError: `weights` is no checkpoint, or lacks the weights asked for, or parts of its header.
        ExportError: `weights` is no exported folder, or a changed one; or the model can't be exported.
        EngineError: The engine can't be had.
        MissingExtraError: Its package isn't installed.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        prefer: str | None = None,
        batch_size: int = 32,
        top_k: int = 5,
        engine: str = "paddle",
        precision: Precision | None = None,
        threads: int | None = None,
    ):
        _check_engine(engine, precision or "f32")
        folder = Path(weights)
        model = None
        if folder.is_dir():
            meta = read_card(folder)
            precision = precision_of(folder, precision)
            _check_engine(engine, precision)
        else:
            _check_no_export(folder)
            precision = precision or "f32"
            model, meta = load_trained(weights, prefer)
            if precision == "int8":
                raise EngineError(
                    f"{weights} is a checkpoint: `passl-sot export --precision int8` makes int8 of it"
                )
            if engine != "paddle":
                folder = _exported(model, meta, engine)
                model = None
        self.task = task_of(meta)
        self.precision = precision
        self.batch_size = batch_size
        self.top_k = top_k
        if engine == AUTO:
            batches = sorted({1, min(batch_size, _MOST_MEASURED)})
            tokenizer = getattr(self.task, "tokenizer", None)
            engine = choose_engine(
                folder,
                precision=precision,
                batches=batches,
                threads=threads,
                length=min(LENGTH, getattr(tokenizer, "max_length", LENGTH)),
            )
        self.model = model
        self.engine: Engine
        if model is None:
            settings: dict[str, Any] = {"precision": precision, "threads": threads, "batch": batch_size}
            self.engine = open_engine(engine, folder, **settings)
        else:
            self.engine = eager(model, threads)

    @property
    def class_names(self) -> list[str]:
        """Name of each class, of a classifier."""
        return self.task.class_names  # type: ignore[attr-defined]

    def __call__(self, items: Any) -> list[Row]:
        """Predicts one item or several, in order.

        Args:
            items: Of images a path, the bytes of a file, a PIL image, or an array [H, W, 3] or [3, H, W]
                (RGB) of uint8, of floats in [0, 255] or of floats in [0, 1]; an array of four axes, or a
                list, is several. One folder, pattern or `.txt` list stands for its images (see
                `data.given.collect_images`). Of texts one, or a list of texts and of pairs `("a", "b")`.

        Raises:
            FileNotFoundError: The folder or pattern holds no image.
            DataError: The list can't be read.
            ValueError: Numbers, or a kind of PIL image, that are no pixels. (Files and bytes that can't be
                read, and arrays of another shape, have an `error` in their prediction.)
            TypeError: It is something else.
        """
        return list(self.predict(self.task.items(items)))

    def predict(self, items: Sequence, progress: bool = False) -> Iterator[Row]:
        """Yields a prediction for each item, in order; unreadable ones carry an `error`.

        Args:
            items: Each as a call takes one.
            progress: Show a progress bar.
        """
        with (
            # Two threads decode while the model computes: NumPy, Pillow and Paddle all release the lock.
            ThreadPoolExecutor(2) as pool,
            progress_bar(total=len(items), desc="predict", shown=progress) as bar,
        ):
            size = self.batch_size * self.task.batches_ahead
            for start in range(0, len(items), size):
                part = items[start : start + size]
                prepared = list(pool.map(self._read, part))
                yield from self._predict_part(part, prepared, bar.update)

    def read(self, item: Any) -> dict[str, Any]:
        """One item, prepared for the model: what `rows` takes; an ItemError says why it can't be read."""
        return self.task.read(item)

    def rows(self, samples: Sequence[dict[str, Any]], top_k: int | None = None) -> list[dict[str, Any]]:
        """The values of a prediction for each of the samples, computed as one batch.

        Args:
            samples: What `read` gave.
            top_k: Classes in each; by default the predictor's own number.
        """
        batch = self.task.collate(samples)
        try:
            outputs = self.engine(*self.task.inputs(batch))
        except ValueError as fault:  # of an input's size
            message = f"the checkpoint prepares inputs that its model doesn't take: {fault}"
            raise CheckpointError(message) from fault
        return self.task.decode(paddle.to_tensor(outputs), top_k or self.top_k)

    def _read(self, item: Any) -> tuple[dict | None, str]:
        """A sample, or the reason why there is none."""
        try:
            return self.read(item), ""
        except ItemError as error:
            # One bad file among thousands: its row says so, and the others go on.
            return None, str(error)

    def _predict_part(
        self, items: Sequence, prepared: list[tuple[dict | None, str]], count: Callable[[int], object]
    ) -> Iterator[Row]:
        samples = {place: sample for place, (sample, _) in enumerate(prepared) if sample is not None}
        places = sorted(samples, key=lambda place: self.task.size_of(samples[place]))
        rows: dict[int, dict[str, Any]] = {}
        for start in range(0, len(places), self.batch_size):
            chosen = places[start : start + self.batch_size]
            found = self.rows([samples[place] for place in chosen])
            rows.update(zip(chosen, found, strict=True))
            count(len(chosen))
        count(len(items) - len(places))
        for place, (item, (_, error)) in enumerate(zip(items, prepared, strict=True)):
            yield self.task.row(item, error, rows.get(place, {}))


def task_for(weights: str | Path) -> tuple[Task, dict[str, Any]]:
    """The task of a checkpoint or an exported folder, whose weights aren't read, and its header.

    Raises:
        CheckpointError: As of `Predictor`; so are others.
    """
    if Path(weights).is_dir():
        meta = read_card(Path(weights))
    else:
        _check_no_export(Path(weights))
        if not is_checkpoint(weights):
            load_trained(weights)  # which says what it is
        path, meta = read_header(weights)
        check_card(path, meta)
    return task_of(meta), meta


def _check_engine(engine: str, precision: Precision) -> None:
    """Refuses what can't be had before anything is read."""
    if engine not in (AUTO, *ENGINES):
        raise EngineError(f"there is no engine {engine!r}: choose among {', '.join((AUTO, *ENGINES))}")
    if engine != AUTO:
        require_precision(engine, precision)
    if engine in PACKAGES:
        require_extra(PACKAGES[engine], "export", f"the engine {engine}")


def _check_no_export(file: Path) -> None:
    """Refuses a single file of an exported folder, which is no checkpoint."""
    if file.name in EXPORTED and file.is_file() and (file.parent / CARD).is_file():
        raise EngineError(f"{file} is one file of an exported model: name its folder, {file.parent}")


def _exported(model: nn.Layer, meta: Mapping[str, Any], engine: str) -> Path:
    """The folder of a model's export for an engine, or for all that are installed."""
    if engine != AUTO:
        return exported(model, meta, [FORMAT_OF[engine]])
    try:
        return exported(model, meta, installed_formats())
    except (ExportError, MissingExtraError) as error:
        get_logger().warning("auto: only Paddle's own engines are left: %s", error)
        return exported(model, meta, ["paddle"])


def write_predictions(predictions: Sequence[Row], path: Path) -> None:
    """Writes a `.json` (a list of objects), a `.tsv` as GLUE takes it (of texts: `index`, `prediction`), or
    else a CSV (a row an item), whole or not at all.

    Args:
        predictions: Rows that a `Predictor` gave.
        path: The file.

    Raises:
        OSError: The place can't be written to.
        UserError: A `.tsv` is asked of what aren't texts, or of texts without a prediction.
    """
    write = {".json": _write_json, ".tsv": _write_glue}.get(path.suffix, _write_csv)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file itself, which by its name could be another by now.
    replace_atomically(path, lambda file: write(predictions, Path(f"/dev/fd/{file.fileno()}")))


def _write_json(predictions: Sequence[Row], path: Path) -> None:
    text = json.dumps([vars(p) for p in predictions], ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _write_glue(predictions: Sequence[Row], path: Path) -> None:
    lines = ["index\tprediction"]
    for number, p in enumerate(predictions):
        if not isinstance(p, TextPrediction):
            raise UserError("a .tsv is GLUE's form, for predictions of texts: name a .csv or .json")
        if p.error:
            raise UserError(f"GLUE's form has no place for texts without a prediction: {p.error}")
        answer = f"{p.value:.3f}" if p.value is not None else p.names[0]
        lines.append(f"{p.index or number}\t{answer}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_csv(predictions: Sequence[Row], path: Path) -> None:
    depth = max((len(p.classes) for p in predictions), default=0)
    ranks = ["", *map(str, range(2, depth + 1))]
    if any(getattr(p, "value", None) is not None for p in predictions):
        ranks = []
    classes = [f"{key}{rank}" for rank in ranks for key in ("class", "name", "probability")]
    names = ["path"]
    if predictions:
        names = [name for name in vars(predictions[0]) if name not in _OF_CLASSES]
    # What an item is called by, of which the first always has a column.
    used = [name for name in names[1:] if any(getattr(p, name) not in ("", None) for p in predictions)]
    shown = [names[0], *used]
    rows = []
    for p in predictions:
        cells: list = []
        for index, name, probability in zip(p.classes, p.names, p.probabilities, strict=True):
            cells += [index, name, f"{probability:.6f}"]
        rows.append(
            [*(getattr(p, name) for name in shown), *cells, *[""] * (len(classes) - len(cells)), p.error]
        )
    write_table(path, [*shown, *classes, "error"], rows)
