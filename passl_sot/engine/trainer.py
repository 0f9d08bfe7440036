"""The training loop, to be read from top to bottom."""

import math
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from passl_sot.config import zh
from passl_sot.engine.build import build_parts
from passl_sot.engine.distributed import World
from passl_sot.engine.evaluate import EvaluationStopped, evaluate
from passl_sot.engine.logging import MetricsWriter, describe_batch, describe_evaluation, describe_update
from passl_sot.engine.nan_check import NonFiniteError, first_of_all
from passl_sot.engine.resume import Fill, accept_changes, begin
from passl_sot.engine.run_dir import RunFolder, memory_gb
from passl_sot.engine.schema import Experiment
from passl_sot.engine.train_state import Speed, StopRequest, running_statistics, seed_all, set_training_mode
from passl_sot.optim.clip import clip_by_global_norm, global_grad_norm
from passl_sot.optim.groups import set_rates
from passl_sot.optim.schedules import plan_batch
from passl_sot.utils.logger import get_logger
from passl_sot.weights import checkpoint as ckpt
from passl_sot.weights import state

log = get_logger()
_LONG_WAIT = 0.2  # fraction of the time from which waiting for data is worth a word


class Trainer:
    """Builds everything an experiment names, and trains.

    Args:
        resume: "auto" (newest checkpoint of `folder`), a checkpoint's path, or None for a new run.
        resume_override: Settings that may differ from those that the checkpoint was written with.
        init_from: Weights to start a new run from; not together with `resume`.
        pretrained: Called with the model of a new run, gives it weights that are fitted to it.
        check_all_files: Read every item before the first epoch instead of a sample.
        overrides: The command line's, for the record.
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
        self.folder.refuse_to_overwrite(saved)
        changes = saved and accept_changes(saved, experiment, resume_override)
        if changes:
            self._say("going on with other settings than before:\n%s", changes)
        self.parts = build_parts(experiment, world, every_item=check_all_files)
        self.train_loader = self.parts.train_loader
        self.val_loader = self.parts.val_loader
        self.model = self.parts.model
        self.task = self.parts.task
        self.trained = [p for p in self.model.parameters() if not p.stop_gradient]
        self.schedules = (self.model.set_epoch, self.task.set_epoch)
        self.progress, self.ema = begin(self.parts, experiment.ema, saved, init_from, pretrained, self._say)
        if saved and world.is_main:
            self.folder.repair_best(saved)
        batch_size = experiment.dataloader.train.sampler.batch_size
        self.plan = plan_batch(self.parts.schedule, batch_size, world.size, len(self.train_loader))
        self.updates_per_epoch = math.ceil(len(self.train_loader) / self.plan.accumulate)
        self.net, self.optimizer = world.distribute(self.model, self.parts.optimizer)
        self.best_by = self._choose_best_by()
        # Gradients of half an update are in no checkpoint.
        if saved and self.progress.batches % self.plan.accumulate:
            raise ckpt.CheckpointError(
                f"{saved.path} stands at batch {self.progress.batches} of an epoch, inside an update of "
                f"{self.plan.accumulate} batches: resume with the batch settings that it was written with"
            )
        self.stop = StopRequest()
        self.advice = ""  # on waiting for data, given once
        self.metrics = self._open_records(saved is not None, overrides)
        self._announce(batch_size)

    def _say(self, message: str, *args: object) -> None:
        if self.world.is_main:
            log.info(message, *args)

    def _open_records(self, resumed: bool, overrides: tuple[str, ...]) -> MetricsWriter | None:
        experiment = self.experiment
        # The record of a run that is complete stays as it is.
        complete = self.progress.epoch >= experiment.epochs and not self.progress.pending_evaluation
        if complete or not self.world.is_main:
            return None
        self.folder.record(experiment, overrides, self.world.size)
        step = self.progress.step if resumed else None
        return MetricsWriter(self.folder.path, visualdl=experiment.log.visualdl, resume_step=step)

    def _choose_best_by(self) -> str:
        """The weights that choose `best`: the recipe's, unless its average can't have forgotten its start."""
        wanted = self.experiment.checkpoint.best_by
        updates = self.experiment.epochs * self.updates_per_epoch
        if wanted == "raw" or self.ema.decay**updates <= 0.01:
            return wanted
        self._say(
            "checkpoint.best_by: raw instead of ema, because %.0f %% of the average will still be the "
            "initial weights after this run's %d updates; a smaller ema.decay makes it usable",
            100 * self.ema.decay**updates,
            updates,
        )
        return "raw"

    def _announce(self, batch_size: int) -> None:
        for line in self.parts.describe():
            self._say("%s", line)
        items = self.task.words.items
        self._say("%s", describe_batch(batch_size, self.world, self.plan, self.parts.schedule, items))
        train, val = self.train_loader.dataset, self.val_loader.dataset
        data = f"{len(train)} training and {len(val)} validation {self.task.describe_items(train)}"
        self._say("%s; run folder %s", data, self.folder.path)

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self) -> dict[str, float] | None:
        """Trains to the last epoch, or until SIGINT or SIGTERM asks to stop; then there is no result.

        Returns:
            The last evaluation's results.

        Raises:
            NonFiniteError: `nonfinite_limit` updates in a row had a non-finite loss or gradient.
        """
        progress = self.progress
        epochs = self.experiment.epochs
        results: dict[str, float] | None = None
        with self.stop.noted(), self.folder.claimed():
            if progress.epoch >= epochs and not progress.pending_evaluation:
                self._say("already complete: %d of %d epochs", progress.epoch, epochs)
                with suppress(EvaluationStopped):
                    results = self.evaluate(record=False)
                return results
            while True:
                if progress.pending_evaluation:
                    try:
                        results = self.evaluate()
                    except EvaluationStopped:  # resuming evaluates anew
                        self._stop(self.stop.signal or signal.SIGTERM, self._save())
                        return None
                    self._keep_best(results[f"{self.best_by}_{self.task.score}"])
                if progress.epoch >= epochs:
                    break
                # A signal may have come during the evaluation; all processes must stop at the same place.
                _, stop = self._agree(False, self.stop.signal)
                stop = stop or self._train_epoch(progress.epoch)
                if not stop:
                    progress.epoch += 1
                    progress.batches = 0
                    last = progress.epoch == epochs
                    progress.pending_evaluation = last or progress.epoch % self.experiment.eval_interval == 0
                path = self._save()  # before the evaluation: whatever happens there, the epoch is kept
                if stop:
                    self._stop(stop, path)
                    return None
        if self.metrics:
            self.metrics.close()
        return results

    def _train_epoch(self, epoch: int) -> int:
        """Runs, or finishes, one epoch; the signal for which all processes stop, or 0."""
        loader = self.train_loader
        parts = self.parts
        accumulate = self.plan.accumulate
        loader.sampler.set_epoch(epoch)
        for follow in self.schedules:
            follow(epoch)
        set_training_mode(self.net, self.experiment.training_mode)
        speed = Speed(loader)
        save_every = self.experiment.checkpoint.update_interval or sys.maxsize
        title = f"epoch {epoch + 1}/{self.experiment.epochs}"
        loss_sum = 0.0
        with self.world.bar(total=len(loader), initial=self.progress.batches, desc=title) as bar:
            for batch in self.world.synchronized(loader):
                index = self.progress.batches
                update = index // accumulate
                if index % accumulate == 0:
                    group = min(accumulate, len(loader) - index)  # the last group of an epoch may be smaller
                    at = (epoch, update / self.updates_per_epoch, self.experiment.epochs)
                    rate = set_rates(parts.optimizer, parts.groups, parts.schedule, at, self.plan.lr_factor)
                    statistics = running_statistics(self.model, parts.frozen)
                    loss_sum = 0.0
                last = index % accumulate == group - 1
                # Dropout and drop-path draw from (seed, position, rank) alone: no generator state is saved.
                seed_all(self.experiment.seed, epoch, index, self.world.rank)
                with self.world.accumulating(self.net, more=not last):
                    with parts.precision.autocast():
                        losses = self.task.step(self.net, batch)
                    loss = losses["loss"] / group
                    parts.precision.backward(loss, self.progress)
                loss_sum += float(loss)  # waits for the device, once a batch
                speed.add(len(batch["index"]) * self.world.size)
                self.progress.batches += 1
                bar.update()
                if not last:
                    continue

                norm, stop = self._update(batch, loss_sum, statistics)
                bar.set_postfix(loss=f"{loss_sum:.3f}", lr=f"{rate:.1e}", refresh=False)
                if update % self.experiment.log.interval == 0 or update + 1 == self.updates_per_epoch:
                    values = {**losses, "loss": loss_sum, "grad_norm": norm, "lr": rate}
                    self._log_update(epoch, update, values, speed)
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
        if self.parts.clip_grad:
            clip_by_global_norm(self.trained, norm, self.parts.clip_grad)
        bad, stop = self._agree(not math.isfinite(loss + norm), self.stop.signal)
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

    def _agree(self, bad: bool, stop: int) -> tuple[bool, int]:
        """Makes one decision of all processes: skip if any has a bad update, stop if any was told to."""
        if self.world.size == 1:
            return bad, stop
        files = self.train_loader.bad_files
        total = self.world.sum(np.array([bad, stop, len(files.pending)], np.int64))
        if total[2]:
            found = self.world.gather_objects(files.pending)
            files.settle([entry for entries in found for entry in entries], name=self.world.is_main)
        return bool(total[0]), int(total[1] and (stop or signal.SIGTERM))

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
            inputs = self.task.inputs(batch)
            items = self.task.words.items
            raise NonFiniteError(
                f"the loss was not finite in {count} updates in a row; it begins in "
                f"{first_of_all(self.model, inputs, items, self.world)}. The last checkpoint is untouched; "
                "lower the learning rate, set optimizer.clip_grad, or look at the input"
            )

    # -- evaluation and records -------------------------------------------------------------------

    def evaluate(self, *, record: bool = True) -> dict[str, float]:
        """Evaluates the raw and, if kept, the averaged weights on the validation split.

        Returns:
            The meter's results as `raw_<name>` and `ema_<name>`: `raw_loss`, `ema_loss`, ...

        Raises:
            EvaluationStopped: SIGINT or SIGTERM came to one of the processes.
        """
        found = {}
        weights: dict[str, AbstractContextManager] = {"raw": nullcontext()}
        if self.ema:
            weights["ema"] = self.ema.applied()

        for kind, applied in weights.items():
            with applied:
                # BatchNorm's statistics are each process's own, and all must evaluate one model.
                self.world.broadcast_statistics(self.model)
                with self.parts.precision.autocast():
                    options = {"description": f"eval {kind}", "stop": self.stop}
                    meter = evaluate(self.model, self.val_loader, self.task, self.world, **options)
            found[kind] = meter.result()
        if self.metrics and record:
            for kind, values in found.items():
                self.metrics.write(f"val_{kind}", self.progress.step, self.progress.epoch, values)
        self._say("%s", describe_evaluation(found, self.task, self.progress.epoch, self.experiment.epochs))
        return {f"{kind}_{name}": v for kind, values in found.items() for name, v in values.items()}

    def _log_update(self, epoch: int, update: int, values: dict, speed: Speed) -> None:
        rate, wait = speed.read()
        epochs = self.experiment.epochs
        updates = self.updates_per_epoch
        words = self.task.words
        items_left = ((epochs - epoch) * updates - update - 1) * self.plan.effective
        values = {
            **{name: float(value) for name, value in values.items()},
            f"{words.items}_per_s": rate,
            "data_wait": wait,
            "memory_gb": memory_gb(),
            "skipped": self.progress.skipped,
            "bad_files": len(self.train_loader.bad_files),
        }
        if self.metrics:
            self.metrics.write("train", self.progress.step, epoch + 1, values)
        seconds_left = items_left / max(rate, 1e-3)
        place = (f"{epoch + 1}/{epochs}", f"{update + 1}/{updates}")
        self._say("%s", describe_update(values, words, *place, seconds_left))
        # An epoch's first update waits for the first batch, whatever is done.
        if wait > _LONG_WAIT and update and not self.advice:
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
        last = self._save()
        if best and self.world.is_main:
            ckpt.copy_checkpoint(last, self.folder.best)

    def _save(self) -> Path:
        last = self.folder.path / "last.safetensors"
        # With sharding each process holds its own part of the optimizer's state: all must take part.
        optimizer = self.world.gather_dict(lambda: state.optimizer_arrays(self.parts.optimizer, self.model))
        if self.world.is_main:
            meta = {
                **self.folder.info,
                "progress": asdict(self.progress),
                "sampler": self.train_loader.sampler.state_dict(),
                "ema_updates": self.ema.updates if self.ema else 0,
                "best_by": self.best_by,
                "config": self.experiment.to_dict(),
                **self.task.describe(),
            }
            average = self.ema.average if self.ema else None
            arrays = state.training_arrays(self.model, average, optimizer)
            ckpt.write_checkpoint(last, arrays, meta, previous=self.folder.previous)
            interval = self.experiment.checkpoint.interval
            progress = self.progress
            if interval and progress.batches == 0 and progress.epoch % interval == 0:
                ckpt.copy_checkpoint(last, self.folder.path / f"epoch_{progress.epoch:04d}.safetensors")
        self.world.wait_for_main()
        return last

    def _stop(self, number: int, path: Path) -> None:
        self._say(
            "stopped by %s; saved %s. Go on with the same command and --resume auto" + zh("stopped_saved"),
            signal.Signals(number).name,
            path,
        )
        if self.metrics:
            self.metrics.close()
