"""The training loop, to be read from top to bottom."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import paddle

from passl_sot.data import build_dataloader, check_data
from passl_sot.engine import checkpoint as ckpt
from passl_sot.engine import state
from passl_sot.engine.diagnose import NonFiniteError, first_nonfinite
from passl_sot.engine.distributed import World, format_duration
from passl_sot.engine.evaluate import evaluate
from passl_sot.engine.experiment import Experiment
from passl_sot.engine.loggers import MetricsWriter
from passl_sot.engine.run_info import RunFolder, memory_gb, preprocessing_of
from passl_sot.engine.tasks import ClassificationTask
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import LOSSES
from passl_sot.optim import build_lr_scheduler, build_optimizer
from passl_sot.optim.clip import clip_by_global_norm, global_grad_norm
from passl_sot.optim.ema import ModelEMA
from passl_sot.optim.schedules import plan_batch
from passl_sot.utils.config import Config
from passl_sot.utils.logger import get_logger
from passl_sot.utils.schema import make_section

log = get_logger()


@dataclass
class Progress:
    """Where a run stands; saved and restored as it is.

    Attributes:
        epoch: The epoch being trained (finished epochs before it).
        batches: Batches of that epoch already used by each process.
        step: Updates since the beginning.
        best: Best top-1 (%) so far, by the weights that `checkpoint.best_by` names.
        skipped: Updates left out because of a non-finite loss or gradient.
        skipped_in_a_row: Those since the last good update.
    """

    epoch: int = 0
    batches: int = 0
    step: int = 0
    best: float = -1.0
    skipped: int = 0
    skipped_in_a_row: int = 0


class Trainer:
    """Builds everything an experiment file names, and trains.

    Args:
        cfg: A checked experiment config.
        folder: Where the run's files go.
        world: The processes.
        resume: "auto" (newest checkpoint of `folder`), a checkpoint's path, or None for a new run.
        init_from: Weights to start a new run from; not together with `resume`.
        check_all_files: Decode every image before the first epoch instead of a sample.
        overrides: The command line's overrides, for the record.
        evaluate_only: Nothing will be trained, so nothing is recorded and an existing run is no obstacle.
    """

    def __init__(
        self,
        cfg: Config,
        folder: Path,
        world: World,
        *,
        resume: str | None = None,
        init_from: str | None = None,
        check_all_files: bool = False,
        overrides: tuple[str, ...] = (),
        evaluate_only: bool = False,
    ):
        self.cfg = cfg
        self.exp: Experiment = make_section(Experiment, cfg)
        self.world = world
        self.folder = RunFolder(folder)
        saved = self.folder.checkpoint_to_resume(resume)
        if saved is None and not evaluate_only:
            self.folder.refuse_to_overwrite()
        self.train_loader = build_dataloader(
            cfg.dataloader.train, mode="train", seed=self.exp.seed, **self._place
        )
        self.val_loader = build_dataloader(cfg.dataloader.val, mode="val", seed=self.exp.seed, **self._place)
        self._check_data(all_files=check_all_files)

        paddle.seed(self.exp.seed)
        self.model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
        self.task = ClassificationTask(LOSSES.build(cfg.loss))
        self.parameters = [p for p in self.model.parameters() if not p.stop_gradient]
        factory = build_optimizer(cfg.optimizer)
        self.clip_grad = factory.clip_grad
        self.inner_optimizer = factory(self.model)
        self.schedule = build_lr_scheduler(cfg.lr_scheduler)
        self.progress = Progress()
        if init_from:
            weights, _ = ckpt.read_weights(init_from)
            self._say("starting from %s", state.start_from(self.model, weights, str(init_from)))
        self.ema = ModelEMA(self.model, self.exp.ema.decay) if self.exp.ema else None
        if saved:
            self._restore(saved)
        self.net, self.optimizer = world.distribute(self.model, self.inner_optimizer)

        batch_size = self.exp.dataloader.train.sampler.batch_size
        self.plan = plan_batch(self.schedule, batch_size, world.size, len(self.train_loader))
        self.updates_per_epoch = math.ceil(len(self.train_loader) / self.plan.accumulate)
        if self.progress.batches % self.plan.accumulate:
            raise ckpt.CheckpointError(
                f"{saved.path} stands at batch {self.progress.batches} of an epoch, inside an update of "
                f"{self.plan.accumulate} batches: resume with the batch settings that it was written with"
            )
        self.stop_signal = 0
        self.metrics: MetricsWriter | None = None
        if world.is_main and not evaluate_only:
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
            classes = self.cfg.model.head.num_classes
            sample = "all" if all_files else 64
            max_bad = self.exp.dataloader.train.loader.max_bad
            check_data(
                self.train_loader.dataset,
                self.val_loader.dataset,
                classes,
                sample=sample,
                progress=all_files,
                max_bad=max_bad,
            )
        self.world.wait_for_main()

    def _announce(self, batch_size: int) -> None:
        plan, schedule = self.plan, self.schedule
        reference = schedule.reference_batch or plan.effective
        self._say(
            "batch: %d per device x %d device(s) x %d accumulated = %d images per update "
            "(recipe: %d); peak learning rate %.4g%s",
            batch_size,
            self.world.size,
            plan.accumulate,
            plan.effective,
            reference,
            schedule.learning_rate * plan.lr_factor,
            "" if plan.lr_factor == 1 else f" (recipe's {schedule.learning_rate:.4g} x {plan.lr_factor:.4g})",
        )
        self._say(
            "%d training and %d validation images, %d classes; run folder %s",
            len(self.train_loader.dataset),
            len(self.val_loader.dataset),
            len(self.train_loader.class_names),
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
        if self.progress.epoch >= self.exp.epochs:
            self._say("already complete: %d of %d epochs", self.progress.epoch, self.exp.epochs)
            return self.evaluate()
        results: dict[str, float] | None = None
        with self._signals():
            for epoch in range(self.progress.epoch, self.exp.epochs):
                stop = self._train_epoch(epoch)
                if stop:
                    self._stop(stop, self._save())
                    return None
                self.progress.epoch, self.progress.batches = epoch + 1, 0
                best = False
                if (epoch + 1) % self.exp.eval_interval == 0 or epoch + 1 == self.exp.epochs:
                    results = self.evaluate()
                    best = results[f"{self.exp.checkpoint.best_by}_top1"] > self.progress.best
                    if best:
                        self.progress.best = results[f"{self.exp.checkpoint.best_by}_top1"]
                path = self._save(best=best)
                _, stop = self._agree(False, self.stop_signal)
                if stop and epoch + 1 < self.exp.epochs:
                    self._stop(stop, path)
                    return None
        if self.metrics:
            self.metrics.close()
        return results

    def _train_epoch(self, epoch: int) -> int:
        """Runs, or finishes, one epoch.

        Returns:
            The signal that all processes agreed to stop for, after the current update; else 0.
        """
        loader, accumulate = self.train_loader, self.plan.accumulate
        loader.sampler.set_epoch(epoch)
        self.net.train()
        meter = _Speed(loader)
        bar = self.world.bar(
            total=len(loader), initial=self.progress.batches, desc=f"epoch {epoch + 1}/{self.exp.epochs}"
        )
        loss_sum = 0.0
        for batch in loader:
            index = self.progress.batches
            if index % accumulate == 0:
                update = index // accumulate
                group = min(accumulate, len(loader) - index)  # the last group of an epoch may be smaller
                fraction = update / self.updates_per_epoch
                rate = self.plan.lr_factor * self.schedule.lr(epoch, fraction, self.exp.epochs)
                self.inner_optimizer.set_lr(rate)
                statistics = self._statistics()
                loss_sum = 0.0
            last = index % accumulate == group - 1
            # Dropout and drop-path draw from (seed, position, rank) alone: resuming needs no generator state.
            paddle.seed(_mix(self.exp.seed, epoch, index, self.world.rank))
            with self.world.accumulating(self.net, more=not last):
                loss = self.task(self.net, batch)["loss"] / group
                loss.backward()
            loss_sum += float(loss)
            meter.add(len(batch["label"]) * self.world.size)
            self.progress.batches += 1
            bar.update()
            if not last:
                continue

            norm = global_grad_norm(self.parameters)
            bad, stop = self._agree(not math.isfinite(loss_sum + norm), self.stop_signal)
            if bad:
                self._skip(statistics, batch)
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
                self._log_update(epoch, update, loss_sum, norm, rate, meter)
            if stop:
                bar.close()
                return stop
        bar.close()
        return 0

    def _agree(self, bad: bool, stop: int) -> tuple[bool, int]:
        """Makes one decision of all processes: skip if any has a bad update, stop if any was told to."""
        if self.world.size == 1:
            return bad, stop
        total = self.world.sum(np.array([bad, stop], np.int64))
        return bool(total[0]), int(total[1] and (stop or signal.SIGTERM))

    def _statistics(self) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
        # A forward pass on bad numbers spoils BatchNorm's running statistics, which no skipped update undoes.
        entries = self.model.state_dict().values()
        return [(t, t.clone()) for t in entries if t.stop_gradient and paddle.is_floating_point(t)]

    def _skip(self, statistics: list, batch: dict) -> None:
        for tensor, before in statistics:
            tensor.set_value(before)
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        count, limit = self.progress.skipped_in_a_row, self.exp.nonfinite_limit
        self._say(
            "update %d skipped: loss or gradient is not finite (%d in a row)", self.progress.step, count
        )
        if count >= limit:
            raise NonFiniteError(
                f"the loss was not finite in {count} updates in a row; it begins in "
                f"{first_nonfinite(self.model, batch)}. The last checkpoint is untouched; lower the learning "
                f"rate, set optimizer.clip_grad, or look at the input"
            )

    # -- evaluation and records -------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Evaluates the raw and, if kept, the averaged weights on the validation split.

        Returns:
            Values by name: `raw_top1` (%), `raw_loss`, ... and `ema_top1`, ...
        """
        classes = self.cfg.model.head.num_classes
        results = {}
        for kind in ("raw", "ema") if self.ema else ("raw",):
            with self.ema.applied() if kind == "ema" else nullcontext():
                self.world.broadcast_statistics(self.model)
                meter = evaluate(self.model, self.val_loader, classes, self.world, description=f"eval {kind}")
            values = meter.result()
            results.update({f"{kind}_{name}": value for name, value in values.items()})
            if self.metrics:
                self.metrics.write(f"val_{kind}", self.progress.step, self.progress.epoch, values)
        self._say(
            "epoch %d/%d  %s",
            self.progress.epoch,
            self.exp.epochs,
            "  ".join(
                f"{k} {results[f'{k}_top1']:.2f} % (loss {results[f'{k}_loss']:.3f})"
                for k in ("raw", "ema")
                if f"{k}_top1" in results
            ),
        )
        return results

    def _log_update(
        self, epoch: int, update: int, loss: float, norm: float, rate: float, meter: "_Speed"
    ) -> None:
        speed, wait = meter.read()
        done = epoch * self.updates_per_epoch + update + 1
        images_left = (self.exp.epochs * self.updates_per_epoch - done) * self.plan.effective
        eta = images_left / speed if speed else 0.0
        values = {
            "loss": loss,
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
        self._say(
            "epoch %d/%d  update %d/%d  loss %.4f  lr %.2e  %.0f images/s  "
            "data wait %.0f %%  %.1f GB  ETA %s",
            epoch + 1,
            self.exp.epochs,
            update + 1,
            self.updates_per_epoch,
            loss,
            rate,
            speed,
            100 * wait,
            values["memory_gb"],
            format_duration(eta),
        )

    # -- checkpoints ------------------------------------------------------------------------------

    def _save(self, *, best: bool = False) -> Path:
        last = self.folder.path / "last.safetensors"
        if self.world.is_main:
            meta = {
                **self.folder.info,
                "progress": asdict(self.progress),
                "sampler": self.train_loader.sampler.state_dict(),
                "ema_updates": self.ema.updates if self.ema else 0,
                "best_by": self.exp.checkpoint.best_by,
                "config": self.cfg.to_dict(),
                "class_names": self.train_loader.class_names,
                "preprocessing": preprocessing_of(self.cfg.dataloader.val.dataset),
            }
            arrays = state.training_arrays(self.model, self.ema, self.inner_optimizer)
            ckpt.write_checkpoint(last, arrays, meta)
            if best:
                ckpt.copy_checkpoint(last, self.folder.path / "best.safetensors")
            interval = self.exp.checkpoint.interval
            if interval and self.progress.batches == 0 and self.progress.epoch % interval == 0:
                ckpt.copy_checkpoint(last, self.folder.path / f"epoch_{self.progress.epoch:04d}.safetensors")
        self.world.wait_for_main()
        return last

    def _restore(self, saved: ckpt.Checkpoint) -> None:
        state.load_model(self.model, saved.part("model"), str(saved.path))
        state.load_optimizer(self.inner_optimizer, self.model, saved.part("optimizer"))
        if self.ema:
            self.ema.load(saved.part("ema"), saved.meta["ema_updates"])
        self.progress = Progress(**saved.meta["progress"])
        if self.progress.batches:
            self.train_loader.sampler.load_state_dict(saved.meta["sampler"])
        self._say(
            "resuming from %s: epoch %d, batch %d, %d updates, best top-1 %.2f %%",
            saved.path,
            self.progress.epoch + 1,
            self.progress.batches,
            self.progress.step,
            self.progress.best,
        )

    def _stop(self, number: int, path: Path) -> None:
        self._say(
            "stopped by %s; saved %s. Go on with the same command and --resume auto / "
            "已保存，用相同命令加 --resume auto 继续",
            signal.Signals(number).name,
            path,
        )
        if self.metrics:
            self.metrics.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the current update; a second Ctrl-C ends it at once."""

        def note(number: int, frame: object) -> None:
            # Paddle's launcher sends SIGTERM three times within a second: no sign of impatience.
            if self.stop_signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Speed:
    """Images per second and the share of the time spent waiting for data, since the last reading."""

    def __init__(self, loader):
        self.loader = loader
        self.images = 0
        self.began = time.perf_counter()
        self.waited = loader.wait_seconds

    def add(self, images: int) -> None:
        self.images += images

    def read(self) -> tuple[float, float]:
        now = time.perf_counter()
        seconds = max(now - self.began, 1e-9)
        result = self.images / seconds, min(1.0, (self.loader.wait_seconds - self.waited) / seconds)
        self.images, self.began, self.waited = 0, now, self.loader.wait_seconds
        return result


def _mix(*numbers: int) -> int:
    """One 31-bit seed out of several numbers, different for different tuples in practice (FNV-1a)."""
    value = 0x811C9DC5
    for number in numbers:
        for byte in number.to_bytes(8, "little", signed=True):
            value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value & 0x7FFFFFFF
