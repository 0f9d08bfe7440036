"""A run's numbers: `metrics.jsonl`, and VisualDL records beside it."""

import json
import math
import os
from pathlib import Path

from passl_sot.utils.logger import get_logger
from passl_sot.weights.checkpoint import explained


class Records:
    """The numbers of a run; other processes than the main one don't `open` them."""

    def __init__(self) -> None:
        self._file = None
        self._visualdl = None

    def open(self, folder: Path, *, visualdl: bool, resume_step: int | None) -> None:
        """Begins `metrics.jsonl` and, if asked, VisualDL scalars of the same names and steps.

        Rows after the update `resume_step` are dropped, so that a run that was cut off and resumed leaves one
        growing step axis; None begins a new file.
        """
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
        if not visualdl:
            return
        try:
            from visualdl import LogWriter  # takes a second to import; eval and predict don't need it
        except ImportError:
            get_logger().warning("no curves: pip install visualdl; %s is written all the same", self.path)
        else:
            self._visualdl = LogWriter(logdir=str(folder / "visualdl"))

    def write(self, kind: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Appends one row, where `open` was called; `kind` ("train", "val", "val_ema") groups the curves."""
        if self._file is None:
            return
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
        """Flushes and closes both files."""
        for file in (self._file, self._visualdl):
            if file:
                file.close()


def read_metrics(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
