"""What a run of PaddleDetection needs around it: processes, snapshots, the best metrics, a quiet output."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import paddle.distributed as dist

from passl_sot.config import UserError
from passl_sot.config.errors import listing
from passl_sot.dense.faults import check_loss
from passl_sot.dense.suites import detection_loggers, send_to
from passl_sot.engine.distributed import World, start
from passl_sot.utils.logger import get_logger

_FINAL = "model_final"  # the suite's name of the last epoch's snapshot


@contextmanager
def aside() -> Iterator[None]:
    """Leaves standard output to results: what the suite and COCO's tools say goes to the other stream.

    Where our logger has no INFO, it goes nowhere.
    """
    shown = get_logger().isEnabledFor(logging.INFO)
    for logger in detection_loggers():
        logger.setLevel(logging.INFO if shown else logging.WARNING)
        send_to(sys.stderr, logger)
    with redirect_stdout(sys.stderr if shown else io.StringIO()):
        yield


def joined() -> World:
    """The processes of the launcher, which may have been joined before."""
    # A second start of the process group fails.
    if not dist.is_initialized():
        return start("auto")
    return World(rank=dist.get_rank(), size=dist.get_world_size(), gloo=dist.get_backend() == "GLOO")


def find_snapshot(output: Path, resume: str | None) -> Path | None:
    """What to go on from, without a suffix; a UserError where it isn't there."""
    if resume is None:
        return None
    snapshot = Path(resume.removesuffix(".pdparams"))
    if resume == "auto":
        found = [path for path in output.glob("*.pdopt") if path.stem.isdecimal() or path.stem == _FINAL]
        if not found:
            return None
        # By time: `model_final` has no number.
        snapshot = max(found, key=lambda path: path.stat().st_mtime).with_suffix("")
    missing = [
        f"{snapshot}{end}" for end in (".pdparams", ".pdopt") if not Path(f"{snapshot}{end}").is_file()
    ]
    if missing:
        raise UserError(f"can't resume: there is no {listing(missing)}; name a snapshot, such as output/5")
    return snapshot


def watch(trainer: Any, world: World, file: Path | None) -> Any:
    """A callback that keeps the metrics of the best evaluation, and the processes together."""
    from ppdet.engine.callbacks import Callback, Checkpointer

    class Watcher(Callback):
        """Writes metrics to `file`; before each step the processes wait for each other."""

        def __init__(self) -> None:
            super().__init__(trainer)
            self.metrics: dict[str, float] = {}

        def on_step_begin(self, status: dict[str, Any]) -> None:
            # While the first evaluates, gloo would give it up.
            if status["mode"] == "train":
                world.barrier()

        def on_step_end(self, status: dict[str, Any]) -> None:
            if status["mode"] == "train" and world.is_main:
                loss = status["training_staus"].meters["loss"].value.item()  # of no dimension, or of one
                check_loss(loss, "LearningRate.base_lr")

        def on_epoch_end(self, status: dict[str, Any]) -> None:
            if status["mode"] != "eval":
                return
            found = trainer._metrics[0].get_results()
            metrics = {}
            for ours, theirs in (("box", "bbox"), ("mask", "mask")):
                if theirs in found:
                    metrics[f"{ours}_ap"] = float(found[theirs][0])
                    metrics[f"{ours}_ap50"] = float(found[theirs][1])
            if metrics and metrics["box_ap"] >= self.metrics.get("box_ap", -1000.0):
                self.metrics = metrics
                if file:
                    file.write_text(json.dumps(metrics), encoding="utf-8")

        def recall(self) -> None:
            """The suite forgets the best of before: a worse model would replace it."""
            if file and file.is_file():
                self.metrics = json.loads(file.read_text(encoding="utf-8"))
                for callback in trainer._callbacks:
                    if isinstance(callback, Checkpointer):
                        callback.best_ap = self.metrics["box_ap"]

    return Watcher()
