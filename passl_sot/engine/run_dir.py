"""A run's folder: its lock, its checkpoints, its numbers and the record of how it came to be."""

import fcntl
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import paddle

from passl_sot.config import zh
from passl_sot.engine.train_state import check_run_card
from passl_sot.launch.cpu_env import cpu_fact, read_cpu, usable_cores
from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__
from passl_sot.weights import checkpoint as ckpt

log = get_logger()
# What of a row of the metrics says when it was measured; the rest is numbers.
PLACE = {"kind", "step", "epoch", "time"}


class RunFolder:
    """`output_dir/<name of the config file>`: checkpoints, metrics, the resolved config and its origin.

    The main process claims it and writes its record; in the others `write` does nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.best = path / "best.safetensors"
        self.previous = path / "previous.safetensors"
        self._lock: TextIO | None = None
        self._metrics: TextIO | None = None
        self._visualdl: Any = None
        self.info = {
            "version": __version__,
            "paddle": paddle.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "commit": _commit(),
        }

    def checkpoint_to_resume(self, resume: str | None) -> ckpt.Checkpoint | None:
        """Reads the checkpoint that `--resume auto|PATH` means; None for a new run.

        Raises:
            CheckpointError: It can't be read; or the folder holds another run, which this one would cover.
        """
        saved = None
        if resume == "auto":
            saved = self.latest()
            if saved is None:
                log.info("nothing to resume in %s: a new run", self.path)
        elif resume is not None:
            saved = ckpt.read_checkpoint(resume, check_run_card)
        # Resuming another folder's checkpoint begins a run here, which must not cover one.
        own = saved is not None and saved.path.resolve().parent == self.path.resolve()
        if (self.path / "last.safetensors").exists() and not own:
            raise ckpt.CheckpointError(
                f"{self.path} already holds a run: add --resume auto to go on with it, or keep it and write "
                f"elsewhere with -o output_dir=DIR" + zh("folder_holds_run")
            )
        return saved

    def latest(self) -> ckpt.Checkpoint | None:
        """The newest whole checkpoint here; None where there is none."""
        return ckpt.find_latest(self.path, log.warning, check_run_card)

    def claim(self) -> None:
        """Makes the folder, sees that it can be written to, and keeps other runs out until `close`.

        Raises:
            CheckpointError: It can't be written to, or another process trains in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # "a" keeps the file of a run that holds the lock as it is.
            self._lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise ckpt.CheckpointError(
                f"can't write to {self.path}: {error.strerror}; set output_dir elsewhere"
                + zh("output_not_writable")
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ckpt.CheckpointError(
                f"another process is training in {self.path}: wait for it, or write elsewhere with "
                f"-o output_dir=DIR" + zh("folder_in_use")
            ) from error

    def close(self) -> None:
        """Closes the records and lets other runs in."""
        for file in (self._metrics, self._visualdl, self._lock):
            with suppress(OSError):  # rows that can't be written were told of when they were
                if file:
                    file.close()

    def repair(self, saved: ckpt.Checkpoint) -> None:
        """Makes the folder of a run that goes on from `saved` whole: `best` and `last` are readable files."""
        progress = saved.meta["progress"]
        # A kill may have come between saving the best epoch and naming it so. Otherwise the best epoch is an
        # older one, whose file was written then.
        if progress["step"] == progress.get("best_step"):
            ckpt.copy_checkpoint(saved.path, self.best)
        last = self.path / "last.safetensors"
        if saved.path.name == last.name or saved.path.resolve().parent != self.path.resolve():
            return
        aside = ""
        if last.exists():
            try:
                ckpt.read_checkpoint(last)
            except ckpt.CheckpointError:
                # Its owner may know how to save it, or it may be of a newer version.
                unreadable = last.with_suffix(".unreadable")
                last.replace(unreadable)
                aside = f"; what it was is kept as {unreadable.name}"
            else:
                return  # another checkpoint was named, or is ahead of it
        ckpt.copy_checkpoint(saved.path, last)
        log.warning("%s is mended: it now is %s%s", last, saved.path.name, aside)

    def record(self, config: str, overrides: tuple[str, ...], world_size: int) -> None:
        """Writes `config.yaml` (resolved) and `run.json` (command, versions, commit, hardware)."""
        ckpt.remove_leftovers(self.path)
        with ckpt.explained(self.path / "config.yaml") as path:
            path.write_text(config, encoding="utf-8")
        facts = {"command": sys.argv, "overrides": list(overrides), "processes": world_size, **self.info}
        facts["hardware"] = hardware()
        with ckpt.explained(self.path / "run.json") as path:
            path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def open_metrics(self, resume_step: int | None, *, evaluated: bool = True, visualdl: bool) -> None:
        """Begins `metrics.jsonl` and, if asked, VisualDL scalars of the same names, steps and times.

        Rows after the update `resume_step` are dropped, so that a run that was cut off and resumed leaves one
        growing step axis; None begins a new file. Without `evaluated` the evaluation after that update comes
        again, so its rows are dropped, too.
        """
        path = self.path / "metrics.jsonl"
        kept = []
        if resume_step is not None and path.exists():
            kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
            if not evaluated:
                kept = [row for row in kept if row["step"] < resume_step or row["kind"] == "train"]
        with ckpt.explained(path):
            replace_atomically(
                path, lambda file: file.writelines(f"{json.dumps(r)}\n".encode() for r in kept)
            )
        self._metrics = path.open("a", encoding="utf-8")
        if not visualdl:
            return
        try:
            from visualdl import LogWriter  # takes a second to import; eval and predict don't need it
        except ImportError:
            log.warning("no curves: pip install visualdl; %s is written all the same", path)
            return
        # VisualDL's page shows one file of a folder, so that one gets all that has been kept. Written anew it
        # begins with the very bytes it had, and a page that is open goes on.
        folder = self.path / "visualdl"
        for old in folder.glob("*vdlrecords*"):
            old.unlink()
        self._visualdl = LogWriter(logdir=str(folder), file_name="vdlrecords.run.log", max_queue=1000)
        for row in kept:
            self._add_to_curves(row)
        self._visualdl.flush()

    def write(self, kind: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Appends one row to the metrics; `kind` ("train", "val", "val_ema") groups the curves."""
        if self._metrics is None:
            return
        # JSON has no NaN; null keeps the row readable everywhere.
        row = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), **values}
        row.update({name: None for name, value in values.items() if not math.isfinite(value)})
        with ckpt.explained(self.path / "metrics.jsonl"):
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()  # a run that is killed has its rows
        if self._visualdl:
            self._add_to_curves(row)
            self._visualdl.flush()

    def _add_to_curves(self, row: dict[str, Any]) -> None:
        at = {"step": row["step"]}
        if "time" in row:  # rows of older versions have none
            at["walltime"] = round(1000 * row["time"])
        for name, value in row.items():
            if name not in PLACE:
                number = math.nan if value is None else float(value)
                self._visualdl.add_scalar(tag=f"{row['kind']}/{name}", value=number, **at)


def read_metrics(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl` up to the first that is none, such as one that a kill cut off."""
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or type(row.get("step")) is not int or "kind" not in row:
            break
        rows.append(row)
    return rows


def memory_gb() -> float:
    """Peak memory of this process so far, in GB: the device's on a GPU, else the resident set's."""
    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts kilobytes


def hardware() -> dict[str, Any]:
    """What this process computes on."""
    cpu = cpu_fact(read_cpu(), "model name") or platform.processor()
    device = paddle.device.get_device()
    # As Paddle, when it is imported, writes the number that it keeps to.
    threads = int(os.environ["OMP_NUM_THREADS"])
    found = {"device": device, "processor": cpu, "cores": usable_cores(), "threads": threads}
    if device.startswith("gpu"):
        found["gpu"] = paddle.device.cuda.get_device_name()
    return found


def _commit() -> str:
    """The commit of the source tree this package runs from; empty outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
