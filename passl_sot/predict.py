"""Predictions with class names, by the preprocessing that travels in the checkpoint."""

import contextlib
import errno
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from PIL import Image

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS
from passl_sot.data.datasets.string_table import natural_key
from passl_sot.data.errors import DataError, ItemError
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
from passl_sot.imageio.files import read_text
from passl_sot.metrics.classification import write_table
from passl_sot.tasks.base import load_trained, task_of
from passl_sot.tasks.classification import Prediction
from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.utils.require import MissingExtraError, require_extra
from passl_sot.weights.checkpoint import CheckpointError

AUTO = "auto"
# Files of an exported folder.
EXPORTED = {CARD, LABELS, TOKENIZER, *(name for names in FILES.values() for name in names)}
_MOST_MEASURED = 8  # of a batch: speed per image changes little beyond
# What is one image, though some can be iterated.
_ONE = (str, Path, bytes, bytearray, memoryview, Image.Image)


class Predictor:
    """Predicts as evaluation does: same preprocessing and, for classifiers, same class order.

    Args:
        weights: A checkpoint that training wrote (the suffix may be left out), or a folder that
            `passl-sot export` wrote.
        prefer: "raw" or "ema" weights of a checkpoint; default: those by which the run chose its best.
        batch_size: Images or texts computed at once.
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
            length = min(LENGTH, getattr(self.task, "max_length", LENGTH))
            engine = choose_engine(
                folder, precision=precision, batches=batches, threads=threads, length=length
            )
        self.engine: Engine
        if model is None:
            self.engine = open_engine(engine, folder, precision=precision, threads=threads)
        else:
            self.engine = eager(model, threads)

    @property
    def class_names(self) -> list[str]:
        """Name of each class, of a classifier."""
        return self.task.class_names  # type: ignore[attr-defined]

    def __call__(self, items: Any) -> list[Any]:
        """Predicts one image or text, or several, in order.

        Args:
            items: Of a model of texts a text, a pair (a, b) of them, or a list of these. Of a model of images
                a path, the bytes of a file, a PIL image, or an array [H, W, 3] or [3, H, W] (RGB) of
                uint8, of floats in [0, 255] or of floats in [0, 1]; an array of four axes, or a list, is
                several. One folder, pattern or `.txt` list stands for its images (see `collect_images`).

        Raises:
            FileNotFoundError: The folder or pattern holds no image.
            DataError: The list can't be read.
            ValueError: Numbers, or a kind of PIL image, that are no pixels. (Files and bytes that can't be
                read, and arrays of another shape, have an `error` in their prediction.)
            TypeError: It is something else.
        """
        if self.task.kind == "text":
            items = [items] if isinstance(items, str | tuple | Mapping) else items
        else:
            items = _images(items)
        return list(self.predict(list(items)))

    def predict(self, items: Sequence, progress: bool = False) -> Iterator[Any]:
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
            for start in range(0, len(items), self.batch_size):
                prepared = list(pool.map(self._read, items[start : start + self.batch_size]))
                yield from self._predict_batch(prepared)
                bar.update(len(prepared))

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

    def _read(self, item: Any) -> tuple[dict, dict | None, str]:
        """What names the item, its sample and, where there is no sample, the reason."""
        named = self.task.named(item)
        try:
            return named, self.read(item), ""
        except ItemError as error:
            # One bad file among thousands: its row says so, and the others go on.
            return named, None, str(error)

    def _predict_batch(self, prepared: list[tuple[dict, dict | None, str]]) -> Iterator[Any]:
        samples = [sample for _, sample, _ in prepared if sample is not None]
        rows = iter(self.rows(samples) if samples else ())
        for named, sample, error in prepared:
            values = {} if sample is None else next(rows)
            yield self.task.row(**named, error=error, **values)


def _images(images: Any) -> Any:
    """What `Predictor` is called with, as something whose items are images."""
    if isinstance(images, str | Path) and (os.path.exists(images) or glob.has_magic(str(images))):
        return collect_images([str(images)])
    if isinstance(images, _ONE) or getattr(images, "ndim", 4) < 4:
        return [images]
    if not hasattr(images, "__iter__"):
        raise TypeError(f"a {type(images).__name__} is no image and no list of them")
    return images


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


def collect_images(arguments: Sequence[str]) -> list[str]:
    """Turns the command line's paths into files: a file, a folder (searched below), a glob or a list.

    `.txt` files hold a path a line (relative ones count from the list's folder), with or without a label
    after it, as make_list writes them; UTF-8 or GB 18030. The order given is kept; folders and globs are
    sorted naturally.

    Raises:
        FileNotFoundError: An argument names nothing.
        DataError: A list is empty or in another encoding.
    """
    files: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if argument and path.is_dir():  # "" is what an unset variable leaves, not this folder
            found = [str(p) for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS]
            complaint = "no image in this folder"
        elif path.is_file() and path.suffix.lower() == ".txt":
            files += _read_list(path)
            continue
        else:
            found = [argument] if path.is_file() else glob.glob(argument, recursive=True)
            complaint = "no such file, folder or pattern"
        if not found:
            raise FileNotFoundError(errno.ENOENT, complaint, argument)
        files += sorted(found, key=natural_key)
    return files


def _read_list(path: Path) -> list[str]:
    try:
        data = read_text(str(path))
    except ItemError as error:
        raise DataError(str(error)) from error
    readings: list[list[str]] = []
    for encoding in ("utf-8-sig", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if "\0" not in text:  # UTF-16 without a mark decodes as UTF-8 with zeros
                lines = [line.strip(" \r") for line in text.split("\n")]
                names = [_without_label(line, path.parent) for line in lines if line.strip()]
                readings.append([str(path.parent / name) for name in names])
    if not readings:
        raise DataError(f"{path} is neither UTF-8 nor GBK: save the list as UTF-8" + zh("save_list_utf8"))
    if not readings[0]:
        raise DataError(f"{path} lists no images: write one path a line" + zh("image_list_empty"))
    if readings[0] == readings[-1]:
        return readings[0]
    # The bytes of a few GBK names are valid UTF-8 as well, for other letters: the files that exist decide.
    return max(readings, key=lambda files: sum(map(os.path.exists, files)))


def _without_label(line: str, folder: Path) -> str:
    """The path of a line `path`, `path<tab>label` or `path label`; paths may hold spaces and digits."""
    if "\t" in line:
        return line.rpartition("\t")[0].strip()
    name, _, label = line.rpartition(" ")
    if label.isdecimal() and not os.path.exists(folder / line) and os.path.exists(folder / name.strip()):
        return name.strip()
    return line


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Writes a `.json` (a list of objects) or else a CSV (a row an image), whole or not at all.

    Raises:
        OSError: The place can't be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_json if path.suffix == ".json" else _write_csv
    # The file itself, which by its name could be another by now.
    replace_atomically(path, lambda file: write(predictions, Path(f"/dev/fd/{file.fileno()}")))


def _write_json(predictions: Sequence[Prediction], path: Path) -> None:
    text = json.dumps([vars(p) for p in predictions], ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _write_csv(predictions: Sequence[Prediction], path: Path) -> None:
    depth = max((len(p.classes) for p in predictions), default=0)
    more = [f"{key}{k}" for k in range(2, depth + 1) for key in ("class", "name", "probability")]
    rows = []
    for p in predictions:
        cells: list = []
        for index, name, probability in zip(p.classes, p.names, p.probabilities, strict=True):
            cells += [index, name, f"{probability:.6f}"]
        rows.append([p.path, *cells, *[""] * (3 * depth - len(cells)), p.error])
    write_table(path, ["path", "class", "name", "probability", *more, "error"], rows)
