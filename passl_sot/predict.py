"""Predictions with class names, by the preprocessing that travels in the checkpoint."""

import contextlib
import errno
import glob
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paddle
from PIL import Image

from passl_sot.config import zh
from passl_sot.data.datasets.folders import EXTENSIONS
from passl_sot.data.datasets.string_table import natural_key
from passl_sot.data.errors import DataError, ItemError
from passl_sot.engines import Engine, open_engine
from passl_sot.engines.base import Precision
from passl_sot.engines.paddle_engine import eager
from passl_sot.export.card import read_card
from passl_sot.imageio.files import read_text
from passl_sot.metrics.classification import write_table
from passl_sot.tasks.base import check_card, model_section_of, task_of
from passl_sot.tasks.classification import Prediction
from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import progress_bar
from passl_sot.weights import state
from passl_sot.weights.checkpoint import CheckpointError, read_weights

# What is one image, though some can be iterated.
_ONE = (str, Path, bytes, bytearray, memoryview, Image.Image)


class Predictor:
    """Predicts as evaluation does: same preprocessing and, for classifiers, same class order.

    Args:
        weights: A checkpoint that training wrote (the suffix may be left out), or a folder that
            `passl-sot export` wrote.
        prefer: "raw" or "ema" weights of a checkpoint; default: those by which the run chose its best.
        batch_size: Images computed at once.
        top_k: Classes per prediction, clamped to the class count.
        engine: What computes the model: "paddle", or another of `passl_sot.engines.ENGINES`, which needs an
            exported folder.
        precision: Numbers it computes in.

    Attributes:
        engine: Called with arrays, gives the output `[B, K]`.
        task: The task it was trained for, which reads inputs and outputs.

    Raises:
        CheckpointError: `weights` is no checkpoint, or lacks the weights asked for, or parts of its header.
        EngineError: The engine can't be had.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        prefer: str | None = None,
        batch_size: int = 32,
        top_k: int = 5,
        engine: str = "paddle",
        precision: Precision = "f32",
    ):
        self.engine: Engine
        if Path(weights).is_dir():
            meta = read_card(Path(weights))
            self.engine = open_engine(engine, Path(weights), precision=precision)
        else:
            arrays, meta = read_weights(weights, prefer)
            if not meta:
                raise CheckpointError(
                    f"{weights} holds bare weights: prediction needs a checkpoint, which also "
                    f"knows its model, preprocessing and class names"
                )
            check_card(weights, meta)
            model = model_section_of(meta).build()
            state.load_model(model, arrays, str(weights))
            model.eval()  # heads with several outputs give one mean of logits then
            self.engine = eager(model)
        self.task = task_of(meta)
        self.batch_size = batch_size
        self.top_k = top_k

    @property
    def class_names(self) -> list[str]:
        """Name of each class, of a classifier."""
        return self.task.class_names  # type: ignore[attr-defined]

    def __call__(self, images: Any) -> list[Prediction]:
        """Predicts one image or several, in order.

        Args:
            images: A path, the bytes of a file, a PIL image, or an array [H, W, 3] or [3, H, W] (RGB) of
                uint8, of floats in [0, 255] or of floats in [0, 1]; an array of four axes, or a list, is
                several. One folder, pattern or `.txt` list stands for its images (see `collect_images`).

        Raises:
            FileNotFoundError: The folder or pattern holds no image.
            DataError: The list can't be read.
            ValueError: Numbers, or a kind of PIL image, that are no pixels. (Files and bytes that can't be
                read, and arrays of another shape, have an `error` in their prediction.)
            TypeError: It is something else.
        """
        if isinstance(images, str | Path) and (os.path.exists(images) or glob.has_magic(str(images))):
            images = collect_images([str(images)])
        elif isinstance(images, _ONE) or getattr(images, "ndim", 4) < 4:
            images = [images]
        elif not hasattr(images, "__iter__"):
            raise TypeError(f"a {type(images).__name__} is no image and no list of them")
        return list(self.predict(list(images)))

    def predict(self, items: Sequence, progress: bool = False) -> Iterator[Prediction]:
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
        """One image, prepared for the model: what `rows` takes; an ItemError says why it can't be read."""
        return self.task.read(item)

    def rows(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The values of a prediction for each of the samples, computed as one batch."""
        batch = self.task.collate(samples)
        try:
            outputs = self.engine(*self.task.inputs(batch))
        except ValueError as fault:  # of an input's size
            message = f"the checkpoint prepares inputs that its model doesn't take: {fault}"
            raise CheckpointError(message) from fault
        return self.task.decode(paddle.to_tensor(outputs), self.top_k)

    def _read(self, item: Any) -> tuple[str, dict | None, str]:
        """Path, sample and, where there is no sample, the reason."""
        path = str(item) if isinstance(item, str | Path) else ""
        try:
            return path, self.read(item), ""
        except ItemError as error:
            # One bad file among thousands: its row says so, and the others go on.
            return path, None, str(error)

    def _predict_batch(self, prepared: list[tuple[str, dict | None, str]]) -> Iterator[Prediction]:
        samples = [sample for _, sample, _ in prepared if sample is not None]
        rows = iter(self.rows(samples) if samples else ())
        for path, sample, error in prepared:
            values = {} if sample is None else next(rows)
            yield self.task.row(path=path, error=error, **values)


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
