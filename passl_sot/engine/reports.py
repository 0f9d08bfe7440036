"""What a run says about itself: lines of the log."""

from passl_sot.engine.distributed import World, format_duration
from passl_sot.engine.train_state import Progress
from passl_sot.optim.schedules import BatchPlan, Schedule


def describe_batch(batch_size: int, world: World, plan: BatchPlan, schedule: Schedule) -> str:
    """Images per update, and the learning rate that follows from them."""
    peak = f"{schedule.learning_rate * plan.lr_factor:.4g}"
    if plan.lr_factor != 1:
        peak += f" (recipe's {schedule.learning_rate:.4g} x {plan.lr_factor:.4g})"
    return (
        f"batch: {batch_size} per device x {world.size} device(s) x {plan.accumulate} accumulated = "
        f"{plan.effective} images per update (recipe: {schedule.reference_batch or plan.effective}); "
        f"peak learning rate {peak}"
    )


def describe_evaluation(results: dict[str, float], score: str, progress: Progress, epochs: int) -> str:
    """Score and loss of each kind of weights."""
    kinds = [kind for kind in ("raw", "ema") if f"{kind}_{score}" in results]
    shown = [f"{k} {results[f'{k}_{score}']:.2f} % (loss {results[f'{k}_loss']:.3f})" for k in kinds]
    return f"epoch {progress.epoch}/{epochs}  {'  '.join(shown)}"


def describe_update(values: dict[str, float], epoch: str, update: str, seconds_left: float) -> str:
    """Loss, speed and time left; `epoch` and `update` as "1/10"."""
    return (
        f"epoch {epoch}  update {update}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
        f"{values['images_per_s']:.0f} images/s  data wait {100 * values['data_wait']:.0f} %  "
        f"{values['memory_gb']:.1f} GB  ETA {format_duration(seconds_left)}"
    )
