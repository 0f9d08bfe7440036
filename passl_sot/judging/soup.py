"""Model soups (Wortsman et al., "Model soups", 2022): several fine-tuned models become one by their mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passl_sot.config import differences
from passl_sot.engine.distributed import World
from passl_sot.engine.evaluate import Evaluation
from passl_sot.engine.schema import Experiment
from passl_sot.tasks.base import check_card, model_section_of
from passl_sot.utils.files import sha256_of
from passl_sot.utils.logger import RESULT, get_logger
from passl_sot.version import __version__
from passl_sot.weights import CheckpointError, state
from passl_sot.weights.average import WeightSum
from passl_sot.weights.checkpoint import Checkpoint, read_header, read_weights, write_checkpoint

Recipe = Literal["uniform", "greedy"]
FILE = "average.safetensors"
# Of a run's header what is about its training; the average goes on with none.
_OF_TRAINING = ("progress", "sampler", "ema_updates", "best_by", "format")
_LONGEST = 200  # characters of a difference

log = get_logger()


def make_soup(
    paths: Sequence[str | Path],
    recipe: Recipe,
    experiment: Experiment,
    world: World,
    out: Path | None = None,
    *,
    tta: Sequence[str] = (),
) -> Checkpoint:
    """The mean of checkpoints of one model, each by the weights ("raw", "ema") that chose its best.

    BatchNorm's means and variances are averaged like weights, as only another pass over the training data
    would tell those of the mean; a line says so.

    Args:
        paths: The checkpoints.
        recipe: "uniform": all of them. "greedy" (their Recipe 1): from the best one on, by the score of each,
            those with which the mean is no worse on the validation data.
        experiment: It brings those data.
        out: The folder to write `average.safetensors` to; None for none.
        tta: Views that "greedy" scores by.

    Raises:
        CheckpointError: One is no checkpoint, or of another model, other classes or another preprocessing.
    """
    headers = [_header(path) for path in paths]
    for path, header in zip(paths[1:], headers[1:], strict=True):
        # Before any weights are read: these may be many gigabytes.
        found = _difference(headers[0], header)
        if found:
            raise CheckpointError(f"{path} can't be averaged with {paths[0]}: {found}")
    if recipe == "uniform":
        total = WeightSum()
        for path in paths:
            total = total.plus(read_weights(path)[0], str(path))
        chosen = list(range(len(paths)))
    else:
        # Weights are read anew for each trial, so that two of them at the most are in memory.
        total, chosen = _Greedy(paths, headers[0], experiment, world, tta).run()
    statistics = total.statistics()
    if statistics and world.is_main:
        log.info("the statistics of %d BatchNorm layers are averaged like weights", statistics)
    kept = {key: value for key, value in headers[0].items() if key not in _OF_TRAINING}
    made_of = [_ingredient(paths[i], headers[i]) for i in chosen]
    average = {"recipe": recipe, "of": made_of, "batch_norm_averaged": statistics}
    meta = {**kept, "average": average, "progress": {}, "best_by": "raw", "version": __version__}
    tensors = {f"model.{name}": array for name, array in total.mean().items()}
    path = (out or Path()) / FILE
    if out is not None and world.is_main:
        write_checkpoint(path, tensors, meta)
        log.log(RESULT, "%s: the mean of %d checkpoints", path, len(chosen))
    return Checkpoint(path, tensors, meta)


def _header(path: str | Path) -> dict[str, Any]:
    file, header = read_header(path)
    check_card(file, header)
    return header


def _ingredient(path: str | Path, header: Mapping[str, Any]) -> dict[str, Any]:
    file = read_header(path)[0]
    return {"file": str(path), "weights": header.get("best_by", "raw"), "sha256": sha256_of(file)}


def _difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What forbids a mean of two checkpoints, by their headers; "" for nothing."""
    ours, theirs = (_asked(header) for header in (first, other))
    # One difference tells enough; the rest often follows from it.
    lines = list(differences(ours, theirs).values())
    if lines:
        return lines[0][:_LONGEST]
    ours, theirs = first.get("class_names", []), other.get("class_names", [])
    if len(ours) != len(theirs):
        return f"{len(ours)} classes and {len(theirs)}"
    for number, names in enumerate(zip(ours, theirs, strict=True)):
        if names[0] != names[1]:
            return "class {} is {!r} and {!r}".format(number, *names)
    return ""


def _asked(header: Mapping[str, Any]) -> dict[str, Any]:
    """What must be alike. Rates of dropout and stochastic depth needn't: they are of the training alone."""
    model = header["config"]["model"]
    parts = {
        part: {key: value for key, value in model[part].items() if "drop" not in key}
        for part in ("architecture", "head")
    }
    return {"model": parts, "preprocessing": header.get("preprocessing", {})}


class _Greedy:
    """Chooses what is averaged by the score on validation data."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        header: Mapping[str, Any],
        experiment: Experiment,
        world: World,
        tta: Sequence[str],
    ):
        self.paths = paths
        model = model_section_of(header).build()
        self.evaluation = Evaluation(experiment, model, header, world, tta=tta)
        self.main = world.is_main

    def run(self) -> tuple[WeightSum, list[int]]:
        """The sum of the chosen, and their places, in the order in which they were taken."""
        scores = [self._score(read_weights(path)[0], path) for path in self.paths]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        total = WeightSum().plus(read_weights(self.paths[order[0]])[0], str(self.paths[order[0]]))
        best = scores[order[0]]
        chosen = order[:1]
        for place in order[1:]:
            path = self.paths[place]
            trial = total.plus(read_weights(path)[0], str(path))
            score = self._score(trial.mean(), "the mean with it")
            # An equal score counts, as in the authors' recipe: more models make a steadier mean.
            kept = score >= best
            self._tell("%s: %s with it: %s", path, f"{score:.4g}", "kept" if kept else "left out")
            if kept:
                total = trial
                best = score
                chosen.append(place)
        self._tell(
            "these validation data chose %d of %d checkpoints: the mean's score on them is an optimistic one",
            len(chosen),
            len(self.paths),
        )
        return total, chosen

    def _score(self, arrays: dict[str, np.ndarray], source: str | Path) -> float:
        state.load_model(self.evaluation.model, arrays, str(source))
        score = self.evaluation.run(Path(source).name).result()[self.evaluation.task.score]
        self._tell("%s: %s %.4g", source, self.evaluation.task.score, score)
        return score

    def _tell(self, text: str, *words: object) -> None:
        if self.main:
            log.info(text, *words)
