"""The training loop, to be read from top to bottom."""

import math
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np

from passl_sot.config import zh
from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.engine.evaluate import evaluate
from passl_sot.engine.learning_check import LearningCheck
from passl_sot.engine.nan_check import NonFiniteError, first_nonfinite
from passl_sot.engine.pictures import draw_run
from passl_sot.engine.resume import (
    Fill,
    accept_changes,
    accept_data,
    begin,
    check_whole_updates,
    header_of,
    other_keys,
)
from passl_sot.engine.run_dir import RunFolder, memory_gb
from passl_sot.engine.schema import Experiment
from passl_sot.engine.speed import Speed
from passl_sot.engine.train_state import StopRequest, seed_all
from passl_sot.engine.training_mode import running_statistics, set_training_mode
from passl_sot.launch.supervisor import STOPPED
from passl_sot.optim.clip import clip_by_global_norm, global_grad_norm
from passl_sot.optim.ema import choose_weights
from passl_sot.optim.groups import set_rates
from passl_sot.tasks.base import Meter
from passl_sot.utils.logger import get_logger
from passl_sot.weights import checkpoint as ckpt
from passl_sot.weights import state

log = get_logger()
_LONG_WAIT = 0.2  # fraction of the time from which waiting for data is worth a word


class Trainer:
    """Builds everything an experiment names, and trains.

    Args:
        resume: "auto" (newest checkpoint of `folder`), a checkpoint's path, or None for a new run.
        resume_override: Settings, or sections for their data, that may differ from those of the checkpoint.
        init_from: Weights to start a new run from; not together with `resume`.
        pretrained: Called with the model of a new run, gives it weights that are fitted to it.
        overrides: The command line's, for the record.

    Attributes:
        stopped_by: The signal for which `fit` ended early, the same in all processes; 0 if it didn't.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        world: World,
        *,
        resume: str | None = None,
        resume_override: Sequence[str] = (),
        init_from: str | None = None,
        pretrained: Fill | None = None,
        check_all_files: bool = False,
        overrides: tuple[str, ...] = (),
    ):
        self.experiment = experiment
        self.world = world
        self.folder = RunFolder(folder)
        if world.is_main:
            # Before anything is read: another run may be writing here.
            self.folder.claim()
        saved = self.folder.checkpoint_to_resume(resume)
        if saved is None:
            experiment.check_new_run()
        changes = saved and accept_changes(saved, experiment.to_dict(), resume_override)
        if changes:
            self._say("going on with other settings than before:\n%s", changes)
        self.parts = Parts(experiment, world, every_item=check_all_files)
        self.train_loader = self.parts.train_loader
        self.val_loader = self.parts.val_loader
        self.model = self.parts.model
        self.task = self.parts.task
        self.trained = [p for p in self.model.parameters() if not p.stop_gradient]
        self.statistics = running_statistics(self.model, self.parts.frozen)
        self.schedules = (self.model.set_epoch, self.task.set_epoch)
        data = experiment.dataloader
        self.identity = accept_data(self.parts, data, world, saved, resume_override, self._say)
        self.progress, self.ema = begin(self.parts, experiment.ema, saved, init_from, pretrained, self._say)
        if saved and world.is_main:
            self.folder.repair(saved)
        self.plan = self.parts.plan
        self.updates_per_epoch = math.ceil(len(self.train_loader) / self.plan.accumulate)
        self.net, self.optimizer = world.distribute(self.model, self.parts.optimizer)
        if saved:
            check_whole_updates(saved, self.progress, self.plan.accumulate)
        self.stop = StopRequest()
        self.stopped_by = 0
        self.advice = ""  # on waiting for data, given once
        fresh = saved is None and init_from is None and pretrained is None
        updates = experiment.epochs * self.updates_per_epoch
        self.learning = LearningCheck(self.task, self.parts.schedule, updates, fresh)
        # The newest evaluation of the weights that choose `best`, and the best one with its epoch.
        self.meter: Meter | None = None
        self.best: tuple[Meter, int] | None = None
        self._open_record(overrides, self.progress.step if saved else None)
        self.best_by = choose_weights(experiment.checkpoint.best_by, self.ema, updates, self._say)
        differing = saved and other_keys(saved, self._header())
        if differing:
            self._say("%s", differing)
        for line in self.parts.describe(self.folder.path):
            self._say("%s", line)

    def _open_record(self, overrides: tuple[str, ...], step: int | None) -> None:
        # That of a run that is complete stays as it is.
        if self.world.is_main and not self._complete():
            self.folder.record(self.experiment.dump(), overrides, self.world.size)
            evaluated = not self.progress.pending_evaluation
            self.folder.open_metrics(step, evaluated=evaluated, visualdl=self.experiment.log.visualdl)

    def _say(self, message: str, *args: object) -> None:
        if self.world.is_main:
            log.info(message, *args)

    def _complete(self) -> bool:
        return self.progress.epoch >= self.experiment.epochs and not self.progress.pending_evaluation

    def fit(self) -> dict[str, float] | None:
        """Trains to the last epoch, or until SIGINT or SIGTERM asks to stop.

        Returns:
            The last evaluation's results; None where the run was stopped.

        Raises:
            NonFiniteError: `nonfinite_limit` updates in a row had a non-finite loss or gradient.
        """
        progress = self.progress
        epochs = self.experiment.epochs
        results = None
        with self.stop.noted(), closing(self.folder):
            if self._complete():
                self._say("already complete: %d of %d epochs", progress.epoch, epochs)
                return self.evaluate()
            while True:
                stop = 0
                if progress.pending_evaluation:
                    results = self.evaluate()
                    if results is None:
                        _, stop = self._agree(False, self.stop.signal)  # resuming evaluates anew
                    else:
                        self._keep_best(results[f"{self.best_by}_{self.task.score}"])
                if progress.epoch >= epochs and not stop:
                    if self.world.is_main:
                        # The best epoch may be from before the run was resumed.
                        evaluation = self.best or (self.meter, progress.epoch)
                        draw_run(self.folder, self.task, self.best_by, evaluation)
                    return results
                stop = stop or self._train_epoch(progress.epoch)
                if not stop:
                    progress.epoch += 1
                    progress.batches = 0
                    last = progress.epoch == epochs
                    progress.pending_evaluation = last or progress.epoch % self.experiment.eval_interval == 0
                path = self._save()  # before the evaluation: whatever happens there, the epoch is kept
                if stop:
                    self.stopped_by = stop
                    name = signal.Signals(stop).name
                    self._say(
                        f"stopped by {name}; saved {path}. Go on with the same command and --resume auto"
                        + zh("stopped_saved")
                    )
                    return None

    def _train_epoch(self, epoch: int) -> int:
        """Runs, or finishes, one epoch; the signal for which all processes stop, or 0."""
        loader = self.train_loader
        parts = self.parts
        accumulate = self.plan.accumulate
        speed = Speed(loader)
        set_training_mode(self.net, self.experiment.training_mode)
        # A signal may have come during the evaluation; all processes must stop at the same place.
        _, stop = self._agree(False, self.stop.signal)
        if stop:
            return stop
        loader.sampler.set_epoch(epoch)
        for follow in self.schedules:
            follow(epoch)
        save_every = self.experiment.checkpoint.update_interval or sys.maxsize
        title = f"epoch {epoch + 1}/{self.experiment.epochs}"
        loss_sum = 0.0
        with self.world.bar(total=len(loader), initial=self.progress.batches, desc=title) as bar:
            for batch in self.world.synchronized(loader):
                index = self.progress.batches
                update = index // accumulate
                # Dropout and drop-path draw from (seed, position, rank) alone: no generator state is saved.
                seed_all(self.experiment.seed, epoch, index, self.world.rank)
                if index % accumulate == 0:
                    group = min(accumulate, len(loader) - index)  # the last group of an epoch may be smaller
                    point = parts.schedule.point(epoch, update, self.updates_per_epoch)
                    at = (*point, self.experiment.epochs)
                    rate = set_rates(parts.optimizer, parts.groups, parts.schedule, at, self.plan.lr_factor)
                    statistics = [(tensor, tensor.clone()) for tensor in self.statistics]
                    loss_sum = 0.0
                last = index % accumulate == group - 1
                with self.world.accumulating(self.net, more=not last):
                    with parts.precision.autocast():
                        losses = self.task.step(self.net, batch)
                    loss = losses["loss"] / group
                    parts.precision.backward(loss, self.progress)
                loss_sum += float(loss)  # waits for the device, once a batch
                speed.take(len(batch["index"]) * self.world.size, self.task.counts(batch))
                self.progress.batches += 1
                bar.update()
                if not last:
                    continue

                norm, stop = self._update(batch, loss_sum, statistics)
                self.learning.take(loss_sum)
                bar.set_postfix(loss=f"{loss_sum:.3f}", lr=f"{rate:.1e}", refresh=False)
                done = update + 1
                said = done % self.experiment.log.interval == 0 or done == self.updates_per_epoch
                if said or self.progress.step == 1:  # a run's first update shows at once that it works
                    values = {**losses, "loss": loss_sum, "grad_norm": norm, "lr": rate}
                    self._log_update(epoch, update, values, speed)
                    speed = Speed(loader)
                if stop:
                    return stop
                if self.progress.step % save_every == 0 and self.progress.batches < len(loader):
                    self._save()
        return 0

    def _update(self, batch: dict, loss: float, statistics: list) -> tuple[float, int]:
        """Changes the weights by finite gradients; their norm, and the signal to stop for, or 0."""
        precision = self.parts.precision
        precision.unscale(self.trained, self.progress)
        norm = global_grad_norm(self.trained)
        if self.parts.factory.clip_grad:
            clip_by_global_norm(self.trained, norm, self.parts.factory.clip_grad)
        bad, stop = self._agree(not math.isfinite(loss + norm), self.stop.signal, met=True)
        curable = precision.update_loss_scale(bad, self.progress)
        if bad:
            self._skip(statistics, batch, curable)
        else:
            self.optimizer.step()
            if self.ema:
                self.ema.update()
            self.progress.skipped_in_a_row = 0
        self.optimizer.clear_grad()
        self.progress.step += 1
        return norm, stop

    def _agree(self, bad: bool, stop: int, *, met: bool = False) -> tuple[bool, int]:
        """Makes one decision of all processes: skip if any has a bad update, stop if any was told to.

        `met`: they have just exchanged their gradients.
        """
        if self.world.size == 1:
            return bad, stop
        files = self.train_loader.bad_files
        told = [stop == number for number in STOPPED]
        bads, pending, *told = self.world.sum(np.array([bad, len(files.pending), *told], np.int64), met=met)
        if pending:
            found = self.world.gather_objects(files.pending)
            files.settle([entry for entries in found for entry in entries], name=self.world.is_main)
        return bool(bads), max((number for number, n in zip(STOPPED, told, strict=True) if n), default=0)

    def _skip(self, statistics: list, batch: dict, curable: bool) -> None:
        for tensor, before in statistics:
            tensor.set_value(before)
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        count = self.progress.skipped_in_a_row
        self._say(
            "update %d skipped: loss or gradient is not finite (%d in a row)", self.progress.step, count
        )
        if count >= self.experiment.nonfinite_limit and not curable:
            items = self.task.words.items
            inputs = self.task.inputs(batch)
            raise NonFiniteError(
                f"the loss was not finite in {count} updates in a row; it begins in "
                f"{first_nonfinite(self.model, inputs, items, self.world)}. The last checkpoint is "
                "untouched; lower the learning rate, set optimizer.clip_grad, or look at the input"
            )

    # -- evaluation and records -------------------------------------------------------------------

    def evaluate(self) -> dict[str, float] | None:
        """Evaluates the raw and, if kept, the averaged weights on the validation split.

        Returns:
            The meter's results as `raw_<name>` and `ema_<name>`: `raw_loss`, `ema_loss`, ...; None if SIGINT
            or SIGTERM came to one of the processes.
        """
        found = {}
        weights: dict[str, AbstractContextManager] = {"raw": nullcontext()}
        if self.ema:
            weights["ema"] = self.ema.applied()
        for kind in sorted(weights, key=lambda kind: kind != self.best_by):
            with weights[kind], self.parts.precision.autocast():
                options = {"description": f"eval {kind}", "stop": self.stop}
                meter = evaluate(self.model, self.val_loader, self.task, self.world, **options)
            if meter is None:
                return None
            found[kind] = meter.result()
            if kind == self.best_by:
                self.meter = meter
        epoch = self.progress.epoch
        line = f"epoch {epoch}/{self.experiment.epochs}"
        for kind, values in found.items():
            self.folder.write(f"val_{kind}", self.progress.step, epoch, values)
            line += f"  {kind} {values[self.task.score]:.2f}{self.task.words.unit}"
            if "loss" in values:  # a task's meter need not have one
                line += f" (loss {values['loss']:.3f})"
        self._say("%s", line)
        for doubt in (self.learning.word(epoch, found, self.val_loader.dataset), self.task.doubt(self.meter)):
            if doubt:
                self._say("%s", doubt)
        return {f"{kind}_{name}": v for kind, values in found.items() for name, v in values.items()}

    def _log_update(self, epoch: int, update: int, values: dict, speed: Speed) -> None:
        seconds, rate, wait = speed.read()
        epochs = self.experiment.epochs
        updates = self.updates_per_epoch
        items = self.task.words.items
        items_left = ((epochs - epoch) * updates - update - 1) * self.plan.effective
        left = timedelta(seconds=round(max(0.0, items_left / max(rate, 1e-3))))
        values = {name: float(value) for name, value in values.items()}
        counts = {name: float(count) for name, count in speed.counts.items()}
        # Each process has its own part of the batch, and its own workers.
        values = self.world.mean({**values, **counts, "data_wait": wait, "memory_gb": memory_gb()})
        counts = {name: values.pop(name) * self.world.size for name in counts}
        paces, spoken = self.task.pace(counts, seconds)
        values = {
            **values,
            f"{items}_per_s": rate,
            **paces,
            "skipped": self.progress.skipped,
            "bad_files": len(self.train_loader.bad_files),
        }
        self.folder.write("train", self.progress.step, epoch + 1, values)
        self._say(
            f"epoch {epoch + 1}/{epochs}  update {update + 1}/{updates}  loss {values['loss']:.4f}  "
            f"lr {values['lr']:.2e}  {rate:.0f} {items}/s{spoken}  "
            f"data wait {100 * values['data_wait']:.0f} %  {values['memory_gb']:.1f} GB  ETA {left}"
        )
        # An epoch's first update waits for the first batch, whatever is done; it may be the only one.
        telling = update > 0 or updates == 1
        if values["data_wait"] > _LONG_WAIT and telling and not self.advice:
            self.advice = self.train_loader.advice(rate / self.world.size / max(1 - wait, 0.01))
            if self.advice:
                self._say("%.0f %% of the time went by waiting for data: %s", 100 * wait, self.advice)

    # -- checkpoints ------------------------------------------------------------------------------

    def _keep_best(self, score: float) -> None:
        self.progress.pending_evaluation = False
        # Scores may be negative: the first one that is a number is the best so far.
        first = self.progress.best_step < 0 and not math.isnan(score)
        best = first or score > self.progress.best
        if best:
            self.progress.best = score
            self.progress.best_step = self.progress.step
            self.best = (self.meter, self.progress.epoch)
        last = self._save()
        if best and self.world.is_main:
            ckpt.copy_checkpoint(last, self.folder.best)

    def _header(self) -> dict:
        """The JSON part of a checkpoint written now."""
        position = header_of(self.parts, self.experiment, self.progress, self.ema)
        return {**self.folder.info, "best_by": self.best_by, **position}

    def _save(self) -> Path:
        last = self.folder.path / "last.safetensors"
        # With sharding each process holds its own part of the optimizer's state: all must take part.
        optimizer = self.world.gather_dict(lambda: state.optimizer_arrays(self.parts.optimizer, self.model))
        if self.world.is_main:
            average = self.ema.average if self.ema else None
            arrays = state.training_arrays(self.model, average, optimizer)
            arrays |= self.identity
            ckpt.write_checkpoint(last, arrays, self._header(), previous=self.folder.previous)
            interval = self.experiment.checkpoint.interval
            epoch = self.progress.epoch
            if interval and self.progress.batches == 0 and epoch % interval == 0:
                ckpt.copy_checkpoint(last, self.folder.path / f"epoch_{epoch:04d}.safetensors")
        self.world.wait_for_all()
        return last
