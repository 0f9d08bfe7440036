"""Pictures of a run that is complete, in its folder."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from passl_sot.engine.run_dir import RunFolder, read_metrics
from passl_sot.tasks.base import Meter, Task
from passl_sot.utils.figure import Series, save_curves
from passl_sot.utils.logger import get_logger
from passl_sot.weights.checkpoint import explained

log = get_logger()


def draw_run(folder: RunFolder, task: Task, chosen: str, evaluation: tuple[Meter, int]) -> None:
    """Draws `curves.png`, and what the task draws of an evaluation; where that fails, a line says so.

    Args:
        chosen: Kind of weights ("raw", "ema") that chooses the best; its curves come first.
        evaluation: Scores of these weights, and the epochs they were trained for.
    """
    meter, epoch = evaluation
    try:
        files = [_draw_curves(folder.path, task, chosen)]
        files += task.draw(meter, folder.path, f"{folder.path.name}: {chosen} weights after epoch {epoch}")
    except Exception as error:
        # Whatever is wrong with a font or a disk, the run is complete.
        log.warning("the run's pictures can't be drawn: %s", error)
    else:
        log.info("drawn: %s", ", ".join(path.name for path in files))


def series(rows: Sequence[dict], kind: str, name: str) -> tuple[list[int], list[float]]:
    """Updates and values of what rows of one kind say under a name; NaN where it was not finite."""
    found = [row for row in rows if row["kind"] == kind and name in row]
    return [row["step"] for row in found], [math.nan if row[name] is None else row[name] for row in found]


def epochs_at(rows: Sequence[dict], steps: Sequence[int]) -> list[float]:
    """How many epochs a run had been through at some updates; NaN before the end of the first is known."""
    # Evaluations stand at ends of epochs; a resumed run's epochs may have other numbers of updates.
    ends = sorted({(row["step"], row["epoch"]) for row in rows if row["kind"] != "train"})
    if not ends:
        return [math.nan] * len(steps)
    at, epochs = np.array([(0, 0), *ends], float).T
    found = np.interp(steps, at, epochs)
    # An epoch that isn't over is taken to be as long as those before it.
    pace = (epochs[-1] - epochs[-2]) / max(at[-1] - at[-2], 1)
    return (found + np.maximum(np.array(steps) - at[-1], 0) * pace).tolist()


def _draw_curves(folder: Path, task: Task, chosen: str) -> Path:
    """Loss, score and rate over epochs, of all that `metrics.jsonl` holds."""
    rows = read_metrics(folder / "metrics.jsonl")

    def curve(kind: str, name: str) -> Series:
        steps, values = series(rows, kind, name)
        return epochs_at(rows, steps), values

    kinds = sorted({row["kind"] for row in rows} - {"train"}, key=lambda kind: kind != f"val_{chosen}")
    unit = task.words.unit.strip()
    score = f"{task.words.score} ({unit})" if unit else task.words.score
    panels = {
        "loss": {kind: curve(kind, "loss") for kind in ("train", *kinds)},
        score: {kind: curve(kind, task.score) for kind in kinds},
        "learning rate": {"train": curve("train", "lr")},
    }
    path = folder / "curves.png"
    with explained(path):
        save_curves(path, folder.name, "epoch", panels)
    return path
