"""The training loop, to be read from top to bottom."""

import math
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import paddle

from passl_sot.config.chinese import zh
from passl_sot.config.loader import Config
from passl_sot.config.schema import make_section
from passl_sot.data import build_dataloader, check_data
from passl_sot.engine.amp import Precision
from passl_sot.engine.compatibility import check_fit
from passl_sot.engine.distributed import World
from passl_sot.engine.evaluate import EvaluationStopped, evaluate
from passl_sot.engine.logging import MetricsWriter
from passl_sot.engine.modes import set_training_mode
from passl_sot.engine.nan_check import NonFiniteError, first_of_all
from passl_sot.engine.reports import describe_batch, describe_evaluation, describe_update
from passl_sot.engine.resume import accept_changes, same_classes
from passl_sot.engine.run_dir import RunFolder, memory_gb, preprocessing_of
from passl_sot.engine.schema import Experiment
from passl_sot.engine.stopping import StopRequest
from passl_sot.engine.train_state import Progress, Speed, seed_all
from passl_sot.modeling.classifier import Classifier
from passl_sot.optim import build_lr_scheduler, build_optimizer
from passl_sot.optim.clip import clip_by_global_norm, global_grad_norm
from passl_sot.optim.ema import ModelEMA
from passl_sot.optim.groups import describe_groups, freeze, group_parameters, set_rates
from passl_sot.optim.schedules import plan_batch
from passl_sot.tasks.base import build_task
from passl_sot.utils.logger import get_logger
from passl_sot.weights import checkpoint as ckpt
from passl_sot.weights import state

log = get_logger()
_LONG_WAIT = 0.2  # share of the time from which waiting for data is worth a word
# Gives a new model weights from elsewhere, and says what became of them.
Fill = Callable[[Classifier], object]


class Trainer:
    """Builds everything an experiment file names, and trains.

    Args:
        cfg: A checked experiment config.
        folder: Where the run's files go.
        world: The processes.
        resume: "auto" (newest checkpoint of `folder`), a checkpoint's path, or None for a new run.
        resume_override: Settings that may differ from those that the checkpoint was written with.
        init_from: Weights to start a new run from; not together with `resume`.
        pretrained: Called with the model of a new run, gives it weights that are fitted to it.
        check_all_files: Decode every image before the first epoch instead of a sample.
        overrides: The command line's overrides, for the record.
    """

    def __init__(
        self,
        cfg: Config,
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
        self.cfg = cfg
        self.exp: Experiment = make_section(Experiment, cfg)
        self.world = world
        self.folder = RunFolder(folder)
        if world.is_main:
            self.folder.claim()
        saved = self.folder.checkpoint_to_resume(resume)
        self.folder.refuse_to_overwrite(saved)
        changes = accept_changes(saved, cfg, resume_override) if saved else ""
        if changes:
            self._say("going on with other settings than before:\n%s", changes)
        self.train_loader = build_dataloader(
            cfg.dataloader.train, mode="train", seed=self.exp.seed, **self._place
        )
        self.val_loader = build_dataloader(cfg.dataloader.val, mode="val", seed=self.exp.seed, **self._place)
        self.train_loader.bad_files.shared = world.size > 1
        self._check_data(all_files=check_all_files)

        seed_all(self.exp.seed)
        self.model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
        if self.exp.distributed.sync_batch_norm:
            world.synchronize_batch_norm(self.model)
        self.frozen = freeze(self.model, self.exp.parameters.freeze)
        dataset = self.train_loader.dataset
        self.task = build_task(cfg, self.model, dataset.class_names, class_counts=dataset.class_counts())
        self.schedules = (self.model.set_epoch, self.task.set_epoch)
        self.parameters = [p for p in self.model.parameters() if not p.stop_gradient]
        factory = build_optimizer(cfg.optimizer)
        self.clip_grad, self.weight_decay = factory.clip_grad, factory.weight_decay
        self.groups = group_parameters(self.model, self.exp.parameters)
        self.inner_optimizer = factory(self.model, self.groups)
        self.schedule = build_lr_scheduler(cfg.lr_scheduler)
        self.precision = Precision.of_this_device(self.exp.amp)
        self.precision.prepare(self.model, self.inner_optimizer)
        self.progress = Progress()
        if init_from:
            weights, _ = ckpt.read_weights(init_from)
            self._say("starting from %s", state.start_from(self.model, weights, str(init_from)))
        if pretrained and not saved:
            pretrained(self.model)
        self.ema = ModelEMA(self.model, self.exp.ema.decay) if self.exp.ema else None
        check_fit(self.model, dataset, self.val_loader.dataset, cfg.loss.name)
        self.score = "top1" if dataset.multi_hot is None else "map"
        if saved:
            self._restore(saved)
        self.net, self.optimizer = world.distribute(self.model, self.inner_optimizer)

        batch_size = self.exp.dataloader.train.sampler.batch_size
        self.plan = plan_batch(self.schedule, batch_size, world.size, len(self.train_loader))
        self.updates_per_epoch = math.ceil(len(self.train_loader) / self.plan.accumulate)
        self.best_by = self._choose_best_by()
        if self.progress.batches % self.plan.accumulate:
            raise ckpt.CheckpointError(
                f"{saved.path} stands at batch {self.progress.batches} of an epoch, inside an update of "
                f"{self.plan.accumulate} batches: resume with the batch settings that it was written with"
            )
        self.save_every = self.exp.checkpoint.update_interval or sys.maxsize
        self.stop = StopRequest()
        self.advice = ""  # on waiting for data, given once
        self.metrics: MetricsWriter | None = None
        complete = self.progress.epoch >= self.exp.epochs and not self.progress.pending_evaluation
        if world.is_main and not complete:
            self.folder.record(cfg, overrides, world.size)
            step = self.progress.step if saved else None
            self.metrics = MetricsWriter(folder, visualdl=self.exp.log.visualdl, resume_step=step)
        self._announce(batch_size)

    @property
    def _place(self) -> dict[str, int]:
        return {"rank": self.world.rank, "world_size": self.world.size}

    def _say(self, message: str, *args: object) -> None:
        if self.world.is_main:
            log.info(message, *args)

    def _check_data(self, *, all_files: bool) -> None:
        if self.world.is_main:
            section = self.exp.dataloader.train.loader
            check_data(
                self.train_loader.dataset,
                self.val_loader.dataset,
                self.cfg.model.head.num_classes,
                sample="all" if all_files else 64,
                progress=all_files,
                max_bad=section.max_bad,
                timeout=section.timeout,
            )
        self.world.wait_for_main()

    def _announce(self, batch_size: int) -> None:
        if self.precision.note:
            self._say("%s", self.precision.note)
        frozen = {name: p for name, p in self.model.named_parameters() if name in self.frozen}
        for line in describe_groups(self.groups, self.weight_decay, frozen):
            self._say("%s", line)
        self._say("%s", describe_batch(batch_size, self.world, self.plan, self.schedule))
        self._say(
            "%d training and %d validation images, %d classes; run folder %s",
            len(self.train_loader.dataset),
            len(self.val_loader.dataset),
            len(self.train_loader.dataset.class_names),
            self.folder.path,
        )

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self) -> dict[str, float] | None:
        """Trains to the last epoch, or until SIGINT or SIGTERM asks to stop.

        Returns:
            The last evaluation's results; None where the run was asked to stop.

        Raises:
            NonFiniteError: `nonfinite_limit` updates in a row had a non-finite loss or gradient.
        """
        progress = self.progress
        results: dict[str, float] | None = None
        with self.stop.noted(), self.folder.claimed():
            if progress.epoch >= self.exp.epochs and not progress.pending_evaluation:
                self._say("already complete: %d of %d epochs", progress.epoch, self.exp.epochs)
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
                    self._keep_best(results[f"{self.best_by}_{self.score}"])
                if progress.epoch >= self.exp.epochs:
                    break
                _, stop = self._agree(False, self.stop.signal)
                stop = stop or self._train_epoch(progress.epoch)
                if not stop:
                    progress.epoch, progress.batches = progress.epoch + 1, 0
                    last = progress.epoch == self.exp.epochs
                    progress.pending_evaluation = last or progress.epoch % self.exp.eval_interval == 0
                path = self._save()  # before the evaluation: whatever happens there, the epoch is kept
                if stop:
                    self._stop(stop, path)
                    return None
        if self.metrics:
            self.metrics.close()
        return results

    def _keep_best(self, score: float) -> None:
        self.progress.pending_evaluation = False
        best = score > self.progress.best
        if best:
            self.progress.best, self.progress.best_step = score, self.progress.step
        last = self._save()
        if best and self.world.is_main:
            ckpt.copy_checkpoint(last, self.folder.best)

    def _train_epoch(self, epoch: int) -> int:
        """Runs, or finishes, one epoch.

        Returns:
            The signal that all processes agreed to stop for, after the current update; else 0.
        """
        loader, accumulate = self.train_loader, self.plan.accumulate
        loader.sampler.set_epoch(epoch)
        for follow in self.schedules:
            follow(epoch)
        set_training_mode(self.net, self.exp.training_mode)
        meter = Speed(loader)
        bar = self.world.bar(
            total=len(loader), initial=self.progress.batches, desc=f"epoch {epoch + 1}/{self.exp.epochs}"
        )
        loss_sum = 0.0
        for batch in self.world.synchronized(loader):
            index = self.progress.batches
            if index % accumulate == 0:
                update = index // accumulate
                group = min(accumulate, len(loader) - index)  # the last group of an epoch may be smaller
                fraction = update / self.updates_per_epoch
                at = (epoch, fraction, self.exp.epochs)
                rate = set_rates(self.inner_optimizer, self.groups, self.schedule, at, self.plan.lr_factor)
                statistics = self._statistics()
                loss_sum = 0.0
            last = index % accumulate == group - 1
            # Dropout and drop-path draw from (seed, position, rank) alone: resuming needs no generator state.
            seed_all(self.exp.seed, epoch, index, self.world.rank)
            with self.world.accumulating(self.net, more=not last):
                with self.precision.autocast():
                    values = self.task(self.net, batch)
                loss = values["loss"] / group
                self.precision.backward(loss, self.progress)
            loss_sum += float(loss)
            meter.add(len(batch["label"]) * self.world.size)
            self.progress.batches += 1
            bar.update()
            if not last:
                continue

            self.precision.unscale(self.parameters, self.progress)
            norm = global_grad_norm(self.parameters)
            bad, stop = self._agree(not math.isfinite(loss_sum + norm), self.stop.signal)
            curable = self.precision.adapt(bad, self.progress)
            if bad:
                self._skip(statistics, batch, curable)
            else:
                if self.clip_grad:
                    clip_by_global_norm(self.parameters, norm, self.clip_grad)
                self.optimizer.step()
                if self.ema:
                    self.ema.update()
                self.progress.skipped_in_a_row = 0
            self.optimizer.clear_grad()
            self.progress.step += 1
            bar.set_postfix(loss=f"{loss_sum:.3f}", lr=f"{rate:.1e}", refresh=False)
            if update % self.exp.log.interval == 0 or update + 1 == self.updates_per_epoch:
                self._log_update(epoch, update, {**values, "loss": loss_sum}, norm, rate, meter)
            if stop:
                bar.close()
                return stop
            if self.progress.step % self.save_every == 0 and self.progress.batches < len(loader):
                self._save()
        bar.close()
        return 0

    def _agree(self, bad: bool, stop: int) -> tuple[bool, int]:
        """Makes one decision of all processes: skip if any has a bad update, stop if any was told to."""
        if self.world.size == 1:
            return bad, stop
        files = self.train_loader.bad_files
        total = self.world.sum(np.array([bad, stop, len(files.pending)], np.int64))
        if total[2]:
            found = self.world.gather(files.pending)
            files.settle([entry for entries in found for entry in entries], name=self.world.is_main)
        return bool(total[0]), int(total[1] and (stop or signal.SIGTERM))

    def _statistics(self) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
        # A forward pass on bad numbers spoils BatchNorm's running statistics, which no skipped update undoes.
        entries = [t for name, t in self.model.state_dict().items() if name not in self.frozen]
        return [(t, t.clone()) for t in entries if t.stop_gradient and paddle.is_floating_point(t)]

    def _skip(self, statistics: list, batch: dict, curable: bool) -> None:
        for tensor, before in statistics:
            tensor.set_value(before)
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        count, limit = self.progress.skipped_in_a_row, self.exp.nonfinite_limit
        self._say(
            "update %d skipped: loss or gradient is not finite (%d in a row)", self.progress.step, count
        )
        if count >= limit and not curable:
            raise NonFiniteError(
                f"the loss was not finite in {count} updates in a row; it begins in "
                f"{first_of_all(self.model, batch, self.world)}. The last checkpoint is untouched; lower the "
                f"learning rate, set optimizer.clip_grad, or look at the input"
            )

    # -- evaluation and records -------------------------------------------------------------------

    def evaluate(self, *, record: bool = True) -> dict[str, float]:
        """Evaluates the raw and, if kept, the averaged weights on the validation split.

        Args:
            record: Write the results to the logs.

        Returns:
            Values by name: `raw_top1` (%; `raw_map` with several labels), `raw_loss`, ... and `ema_top1`, ...

        Raises:
            EvaluationStopped: SIGINT or SIGTERM came to one of the processes.
        """
        classes = self.cfg.model.head.num_classes
        found = {}
        for kind in ("raw", "ema") if self.ema else ("raw",):
            with self.ema.applied() if kind == "ema" else nullcontext():
                self.world.broadcast_statistics(self.model)
                with self.precision.autocast():
                    options = {"description": f"eval {kind}", "stop": lambda: bool(self.stop.signal)}
                    meter = evaluate(self.model, self.val_loader, classes, self.world, **options)
            found[kind] = meter.result()
        for kind, values in found.items():
            if self.metrics and record:
                self.metrics.write(f"val_{kind}", self.progress.step, self.progress.epoch, values)
        results = {f"{kind}_{name}": v for kind, values in found.items() for name, v in values.items()}
        self._say("%s", describe_evaluation(results, self.score, self.progress, self.exp.epochs))
        return results

    def _log_update(
        self, epoch: int, update: int, losses: dict, norm: float, rate: float, meter: "Speed"
    ) -> None:
        speed, wait = meter.read()
        updates = self.updates_per_epoch
        images_left = ((self.exp.epochs - epoch) * updates - update - 1) * self.plan.effective
        values = {
            **{name: float(value) for name, value in losses.items()},
            "grad_norm": norm,
            "lr": rate,
            "images_per_s": speed,
            "data_wait": wait,
            "memory_gb": memory_gb(),
            "skipped": self.progress.skipped,
            "bad_files": len(self.train_loader.bad_files),
        }
        if self.metrics:
            self.metrics.write("train", self.progress.step, epoch + 1, values)
        at = f"{epoch + 1}/{self.exp.epochs}", f"{update + 1}/{updates}"
        self._say("%s", describe_update(values, *at, images_left / speed if speed else 0.0))
        # An epoch's first update waits for the first batch, whatever is done.
        if wait > _LONG_WAIT and update and not self.advice:
            self.advice = self.train_loader.advice(speed / self.world.size / max(1 - wait, 0.01))
            if self.advice:
                self._say("%.0f %% of the time went by waiting for data: %s", 100 * wait, self.advice)

    # -- checkpoints ------------------------------------------------------------------------------

    def _save(self) -> Path:
        last = self.folder.path / "last.safetensors"
        optimizer = self.world.gather_dict(lambda: state.optimizer_arrays(self.inner_optimizer, self.model))
        if self.world.is_main:
            meta = {
                **self.folder.info,
                "progress": asdict(self.progress),
                "sampler": self.train_loader.sampler.state_dict(),
                "ema_updates": self.ema.updates if self.ema else 0,
                "best_by": self.best_by,
                "config": self.cfg.to_dict(),
                "class_names": self.train_loader.dataset.class_names,
                "preprocessing": preprocessing_of(self.cfg.dataloader.val.dataset),
            }
            arrays = state.training_arrays(self.model, self.ema.average if self.ema else None, optimizer)
            ckpt.write_checkpoint(last, arrays, meta, previous=self.folder.previous)
            interval, progress = self.exp.checkpoint.interval, self.progress
            if interval and progress.batches == 0 and progress.epoch % interval == 0:
                ckpt.copy_checkpoint(last, self.folder.path / f"epoch_{progress.epoch:04d}.safetensors")
        self.world.wait_for_main()
        return last

    def _restore(self, saved: ckpt.Checkpoint) -> None:
        same_classes(saved, self.train_loader.dataset.class_names)
        state.load_model(self.model, saved.part("model"), str(saved.path))
        state.load_optimizer(self.inner_optimizer, self.model, saved.part("optimizer"))
        average = saved.part("ema")
        if self.ema and average:
            self.ema.load(average, saved.meta["ema_updates"])
        elif self.ema:
            self.ema = ModelEMA(self.model, self.ema.decay)
            self._say("the checkpoint has no average: it begins anew from the weights resumed")
        elif average:
            self._say("the checkpoint's averaged weights are dropped: there is no ema section any more")
        self.progress = Progress(**saved.meta["progress"])
        if self.progress.batches:
            self.train_loader.sampler.load_state_dict(saved.meta["sampler"])
            self.progress.batches = self.train_loader.sampler.consumed
        if self.world.is_main:
            self.folder.mend_best(saved, self.progress.best_step)
        self._say(
            "resuming from %s: epoch %d, batch %d, %d updates, best so far %.2f %%",
            saved.path,
            self.progress.epoch + 1,
            self.progress.batches,
            self.progress.step,
            self.progress.best,
        )

    def _choose_best_by(self) -> str:
        """The weights that choose `best`: the recipe's, unless its average can't have forgotten its start."""
        wanted = self.exp.checkpoint.best_by
        left = self.ema.decay ** (self.exp.epochs * self.updates_per_epoch) if self.ema else 0.0
        if wanted == "ema" and left > 0.01:
            self._say(
                "checkpoint.best_by: raw instead of ema, because %.0f %% of the average will still be the "
                "initial weights after this run's %d updates; a smaller ema.decay makes it usable",
                100 * left,
                self.exp.epochs * self.updates_per_epoch,
            )
            return "raw"
        return wanted

    def _stop(self, number: int, path: Path) -> None:
        self._say(
            "stopped by %s; saved %s. Go on with the same command and --resume auto" + zh("stopped_saved"),
            signal.Signals(number).name,
            path,
        )
        if self.metrics:
            self.metrics.close()
