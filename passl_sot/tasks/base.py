"""The contract between the engine and the meaning of a run: another objective is another task.

A task is configured from YAML (`task:`; left out, it is `ClassificationTask`). It knows the contents of
a batch, a checkpoint's card and a model's outputs; the engine hands these on and looks at none of them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle

from passl_sot.config import Config, ConfigError, Registry, RegistryError, make_section
from passl_sot.data import DATASETS
from passl_sot.data.schema import DataSection
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import LOSSES
from passl_sot.modeling.schema import ModelSection
from passl_sot.tasks.words import Words
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__
from passl_sot.weights import state
from passl_sot.weights.checkpoint import CheckpointError, read_weights, require

log = get_logger()
TASKS = Registry("task", "passl_sot.tasks")
Batch = Mapping[str, paddle.Tensor]
_DEFAULT = {"name": "ClassificationTask"}


class Meter(Protocol):
    """The scores of one evaluation; each process takes in its own part of the items."""

    @property
    def items(self) -> int:
        """Items taken in."""

    def gather(self, total: Callable[[np.ndarray], np.ndarray]) -> None:
        """Joins the counts of all processes.

        Args:
            total: Sums an array over them.
        """

    def result(self) -> dict[str, float]:
        """All scores by name."""


class Task:
    """Base of all tasks. A task must say how to `step`, to evaluate (`meter`, `measure`) and its `score`.

    Attributes:
        words: For log lines.
        takes_texts: Whether items are texts, which may stand on a command line.
        batches_ahead: Batches of predicted items that are read before they are sorted by `size_of`.
        score: Name of the result that chooses the best weights; the higher the better.
        missing: Path of a setting that training needs and the config leaves empty; "" where none is.
        loss: The experiment's `loss:`, built.
    """

    words = Words()
    takes_texts = False
    batches_ahead = 1
    score = "score"
    missing = ""
    loss: Any = None

    @classmethod
    def complaint(cls, training_mode: str) -> str:
        """Says how a mode contradicts this task, when the config is read; "" where it doesn't."""
        return ""

    @classmethod
    def check_card(cls, path: Path, meta: Mapping[str, Any]) -> None:
        """As the function `check_card`: what this task alone needs of a checkpoint's header."""

    # -- before training ----------------------------------------------------------------------------
    def check(
        self, model: Classifier, train: Any, val: Any, section: DataSection, *, every_item: bool = False
    ) -> None:
        """Checks that the datasets are in order and fit each other, the unwrapped model and the loss.

        Args:
            model: The model.
            train: The training dataset.
            val: The validation dataset.
            section: The `dataloader:` that `train` and `val` were built from.
            every_item: Read every item rather than a sample.

        Raises:
            DataError: The data are faulty; lists all faults.
            ConfigError: They do not fit; lists all faults.
        """

    def prepare(self, model: Classifier, train: Any, section: DataSection) -> None:
        """Prepares for training, in every process; a CheckpointError tells of weights it can't use."""

    def check_resume(self, path: Path, card: Mapping[str, Any]) -> None:
        """Raises a CheckpointError where the data aren't those that a checkpoint was trained on."""

    def describe_items(self, train: Any) -> str:
        """The kind of a dataset's items, for a line of the log behind their number."""
        return self.words.items

    # -- training -----------------------------------------------------------------------------------
    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0; for schedules."""

    def step(self, model: paddle.nn.Layer, batch: Batch) -> dict[str, paddle.Tensor]:
        """One forward pass.

        Args:
            model: In training mode, and perhaps wrapped for several processes.
            batch: As the dataset gives it, as tensors.

        Returns:
            Named scalars; `loss` is the one to differentiate, others are logged.
        """
        raise NotImplementedError

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """The part of a batch that the model takes, as arguments of its call.

        Args:
            batch: As for `step`, or of arrays.
        """
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, Any]:
        """What the log counts of a batch beside its items, such as tokens: numbers or scalars; see `pace`."""
        return {}

    def pace(self, counts: Mapping[str, float], seconds: float) -> tuple[dict[str, float], str]:
        """What the log says of `counts`, summed over batches and processes: values, and their words.

        Args:
            counts: The sums.
            seconds: The time that the batches took.
        """
        return {}, ""

    def probe(self, model: Classifier, size: int) -> Batch:
        """A made-up batch of `size` items, to estimate time and memory by."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The card that travels in checkpoints: all that reading items and outputs again will need."""
        return {}

    # -- evaluation ---------------------------------------------------------------------------------
    def prepare_evaluation(self, model: Classifier, node: Config, card: Mapping[str, Any]) -> Any:
        """Prepares for evaluation without training, and builds the dataset to evaluate on.

        Args:
            node: The `dataset:` section.
            card: A checkpoint's header, whose preprocessing counts; {} for bare weights.

        Raises:
            CheckpointError: The data do not fit the model.
        """
        return DATASETS.build(node)

    def guess(self, val: Any) -> float | None:
        """The score that guessing may well reach on a validation dataset; None where that isn't known."""
        return None

    def meter(self, model: Classifier, val: Any, *, rows: bool = False) -> Meter:
        """A new meter.

        Args:
            model: The model that will be evaluated.
            val: The validation dataset.
            rows: Keep each item's result for `write_files`.
        """
        raise NotImplementedError

    def measure(self, model: paddle.nn.Layer, batch: Batch, meter: Any) -> None:
        """Runs the model on a batch and gives the outputs to the meter.

        Args:
            model: In evaluation mode.
            batch: As for `step`.
            meter: One that `meter` gave.
        """
        raise NotImplementedError

    def doubt(self, meter: Any) -> str:
        """A word of warning on an evaluation's scores, of a meter that was gathered; "" for none."""
        return ""

    def details(self, meter: Any) -> dict[str, Any]:
        """Further entries of an evaluation's report."""
        return {}

    def write_files(self, meter: Any, val: Any, folder: Path) -> list[Path]:
        """Writes tables of an evaluation, of a meter with rows; returns their paths."""
        return []

    def draw(self, meter: Any, folder: Path, title: str) -> list[Path]:
        """Draws pictures of an evaluation, of a meter with rows or without; returns their paths."""
        return []

    # -- prediction ---------------------------------------------------------------------------------
    def use_card(self, card: Mapping[str, Any]) -> None:
        """Prepares for prediction.

        Args:
            card: A checkpoint's header, with what `describe` gave.
        """

    def items_of(self, node: Mapping[str, Any], card: Mapping[str, Any]) -> list[Any]:
        """The items of a `dataset:` section, for prediction; `card` as for `use_card`."""
        raise NotImplementedError

    def collect(self, arguments: Sequence[str], columns: Sequence[str]) -> list[Any]:
        """The items that arguments of a command line name.

        Args:
            arguments: Files, folders, patterns.
            columns: Where the items of tables are; () for the usual ones.

        Raises:
            UserError: They can't be read.
            FileNotFoundError: An argument names nothing.
        """
        raise NotImplementedError

    def items(self, given: Any) -> list[Any]:
        """What a program gives for prediction, as a list of items; a TypeError where it is neither.

        Args:
            given: One item, or an iterable of several.
        """
        return list(given)

    def read(self, item: Any) -> dict[str, Any]:
        """Makes a sample for `collate`.

        Args:
            item: As the user gives it: a path, an array.

        Raises:
            ItemError: It can't be read.
        """
        raise NotImplementedError

    def size_of(self, sample: Mapping[str, Any]) -> int:
        """By what predicted samples are sorted into batches, so that alike ones are computed together."""
        return 0

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Makes a batch.

        Args:
            samples: What `read` gave, for each item.
        """
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def make_card(self, node: Config, names: Sequence[str]) -> dict[str, Any]:
        """The card, as of `describe`, of weights that came without one.

        Args:
            node: The config's `dataset:` section of the validation.
            names: What the model's outputs are called.
        """
        return {}

    def probabilities(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """A model's outputs as other programs show them."""
        return outputs

    def decode(self, outputs: paddle.Tensor, top_k: int) -> list[dict[str, Any]]:
        """The values of a row for each item of a batch.

        Args:
            outputs: The model's.
            top_k: Alternatives in a row, where there are as many.
        """
        raise NotImplementedError

    def row(self, item: Any, error: str, values: Mapping[str, Any]) -> Any:
        """The prediction for an item.

        Args:
            item: What `read` was given.
            error: Why it can't be read; "" where it can.
            values: What `decode` gave; none where it can't be read.
        """
        return {"path": path_of(item), "error": error, **values}


def path_of(item: Any) -> str:
    """The path that an item is; "" of one in memory."""
    return str(item) if isinstance(item, str | Path) else ""


def task_class(node: Mapping[str, Any] | None) -> type[Task]:
    """The class that a `task:` section names."""
    return TASKS.get((node or _DEFAULT)["name"])  # type: ignore[return-value]


def build_task(node: Mapping[str, Any] | None, loss: Mapping[str, Any], *, trial: bool = False) -> Task:
    """Builds the task that an experiment's `task:` and `loss:` describe.

    With `trial`, for an estimate, `ClassificationTask` stands in where training would lack something.
    """
    task: Task = TASKS.build(node or _DEFAULT)
    # An estimate without a teacher is better than none: its weights may not be there yet.
    if trial and task.missing:
        log.warning("%s is not given: the estimate is for training without it", task.missing)
        task = TASKS.build(_DEFAULT)
    task.loss = LOSSES.build(loss)
    return task


def check_card(path: str | Path, meta: Mapping[str, Any]) -> None:
    """Checks that a checkpoint's header has all that evaluation, prediction and resuming take from it.

    Raises:
        CheckpointError: A key is missing or holds something of another kind; names file and key.
    """
    # The model's sections come first: without them the header is no card of any task.
    sections = ("config", "config.model", "config.model.architecture", "config.model.head")
    require(path, meta, dict.fromkeys(sections, dict))
    node = meta["config"].get("task")
    if node is not None:
        require(path, meta, {"config.task": dict, "config.task.name": str})
    try:
        task_class(node).check_card(Path(path), meta)
        require(path, meta, {"progress": dict})
        # What follows builds them; here the file can be named.
        model_section_of(meta)
        task_of(meta)
    except (ValueError, RegistryError) as error:
        # Others name the file already, or are of the environment.
        if type(error) not in (ValueError, ConfigError, RegistryError):
            raise
        writer = f"written by version {meta.get('version')} of passl_sot"
        raise CheckpointError(f"{path}, {writer}, describes what can't be built here: {error}") from error


def model_section_of(meta: Mapping[str, Any]) -> ModelSection:
    """The `model:` section that a checkpoint was trained with."""
    return make_section(ModelSection, Config(meta["config"]["model"]), "model")


def load_trained(weights: str | Path, prefer: str | None = None) -> tuple[Classifier, dict[str, Any]]:
    """A checkpoint's model in evaluation mode, and its header.

    Args:
        weights, prefer: As of `weights.checkpoint.read_weights`.

    Raises:
        CheckpointError: It is no checkpoint, or a damaged one.
    """
    arrays, meta = read_weights(weights, prefer)
    if not meta:
        raise CheckpointError(
            f"{weights} holds bare weights: prediction needs a checkpoint, which also knows its model, "
            "preprocessing and class names"
        )
    check_card(weights, meta)
    model = model_section_of(meta).build()
    state.load_model(model, arrays, str(weights))
    model.eval()  # heads with several outputs give one mean of logits then
    return model, meta


def header_for(experiment: Any, names: Sequence[str] = (), ids: Sequence[str] = ()) -> dict[str, Any]:
    """A checkpoint's header for weights that came without one, by the config that describes them.

    Args:
        experiment: The config.
        names: What the model's outputs are called; without them they are numbered, and `classes_unnamed`.
        ids: What their folders are called, where that is something else.
    """
    task = build_task(experiment.task, experiment.loss, trial=True)
    numbers = [str(number) for number in range(experiment.model.head["num_classes"])]
    header = {
        "config": experiment.to_dict(),
        **task.make_card(experiment.dataloader.val.dataset, names or numbers),
        "classes_unnamed": not names,
        "progress": {},
        "version": __version__,
        "best_by": "raw",
    }
    if ids:
        header["class_ids"] = list(ids)
    # As it is once it was written and read.
    return json.loads(json.dumps(header))


def task_of(meta: Mapping[str, Any]) -> Task:
    """The task that a checkpoint was trained with, ready to predict."""
    task: Task = TASKS.build(Config(meta["config"].get("task") or _DEFAULT))
    task.use_card(meta)
    return task
