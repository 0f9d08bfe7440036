"""A run's numbers: lines of the log, `metrics.jsonl`, and VisualDL records beside it."""

import json
import math
import os
from datetime import timedelta
from pathlib import Path

from passl_sot.engine.distributed import World
from passl_sot.optim.schedules import BatchPlan, Schedule
from passl_sot.tasks.base import Task, Words
from passl_sot.utils.logger import get_logger
from passl_sot.weights.checkpoint import explained


class MetricsWriter:
    """Writes scalars to `metrics.jsonl` and, if asked, as VisualDL scalars of the same names and steps.

    Rows after the update `resume_step` are dropped, so that a run that was cut off and resumed leaves one
    growing step axis; None begins a new file.
    """

    def __init__(self, folder: Path, *, visualdl: bool, resume_step: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        kept = []
        if resume_step is not None and self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        # Written beside and renamed: a kill leaves the old rows or the new ones.
        temporary = self.path.with_suffix(".jsonl.tmp")
        with explained(self.path):
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._visualdl = None
        if not visualdl:
            return
        try:
            from visualdl import LogWriter  # takes a second to import; eval and predict don't need it
        except ImportError:
            get_logger().warning("no curves: pip install visualdl; %s is written all the same", self.path)
        else:
            self._visualdl = LogWriter(logdir=str(folder / "visualdl"))

    def write(self, kind: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Appends one row; `kind` ("train", "val", "val_ema") groups the curves."""
        # JSON has no NaN; null keeps the row readable everywhere.
        row = {"kind": kind, "step": step, "epoch": epoch, **values}
        row.update({name: None for name, value in values.items() if not math.isfinite(value)})
        with explained(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()  # a run that is killed has its rows
        if self._visualdl:
            for name, value in values.items():
                self._visualdl.add_scalar(tag=f"{kind}/{name}", value=float(value), step=step)
            self._visualdl.flush()

    def close(self) -> None:
        """Flushes and closes both logs."""
        self._file.close()
        if self._visualdl:
            self._visualdl.close()


def read_metrics(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def describe_batch(batch_size: int, world: World, plan: BatchPlan, schedule: Schedule, items: str) -> str:
    """Items per update, and the learning rate that follows from them."""
    peak = f"{schedule.learning_rate * plan.lr_factor:.4g}"
    if plan.lr_factor != 1:
        peak += f" (recipe's {schedule.learning_rate:.4g} x {plan.lr_factor:.4g})"
    return (
        f"batch: {batch_size} per device x {world.size} device(s) x {plan.accumulate} accumulated = "
        f"{plan.effective} {items} per update (recipe: {schedule.reference_batch or plan.effective}); "
        f"peak learning rate {peak}"
    )


def describe_evaluation(results: dict[str, dict[str, float]], task: Task, epoch: int, epochs: int) -> str:
    """Score and, where there is one, loss of each kind of weights."""
    shown = []
    for kind, values in results.items():
        text = f"{kind} {values[task.score]:.2f}{task.words.unit}"
        if "loss" in values:  # a task's meter need not have one
            text += f" (loss {values['loss']:.3f})"
        shown.append(text)
    return f"epoch {epoch}/{epochs}  {'  '.join(shown)}"


def describe_update(
    values: dict[str, float], words: Words, epoch: str, update: str, seconds_left: float
) -> str:
    """Loss, speed and time left; `epoch` and `update` as "1/10"."""
    left = timedelta(seconds=round(max(0.0, seconds_left)))
    return (
        f"epoch {epoch}  update {update}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
        f"{values[f'{words.items}_per_s']:.0f} {words.items}/s  data wait {100 * values['data_wait']:.0f} %  "
        f"{values['memory_gb']:.1f} GB  ETA {left}"
    )
