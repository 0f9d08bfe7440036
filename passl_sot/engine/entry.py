"""Whole runs as the command line starts them: train, check, evaluate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.config import diff, zh
from passl_sot.engine.build import Parts
from passl_sot.engine.distributed import World
from passl_sot.engine.evaluate import Evaluation
from passl_sot.engine.resume import Fill, accept_changes, accept_data
from passl_sot.engine.run_dir import RunFolder
from passl_sot.engine.schema import Experiment
from passl_sot.engine.train_state import check_run_card
from passl_sot.engine.trainer import Trainer
from passl_sot.launch.supervisor import STOPPED
from passl_sot.tasks.base import Meter, check_card, model_section_of
from passl_sot.utils.logger import RESULT, get_logger
from passl_sot.weights import state
from passl_sot.weights.checkpoint import Checkpoint, CheckpointError, read_checkpoint, read_weights

log = get_logger()


def train_run(experiment: Experiment, folder: Path, world: World, args, pretrained: Fill | None) -> int:
    """Trains in `folder`; `args` are the command line's, `pretrained` fills a model by `--pretrained`.

    Returns:
        The exit status: 0, or 128 and the number of the signal that stopped the run.
    """
    trainer = Trainer(
        experiment,
        folder,
        world,
        resume=args.resume,
        resume_override=args.resume_override,
        init_from=args.init_from,
        pretrained=pretrained,
        check_all_files=args.check_all_files,
        overrides=tuple(args.override),
    )
    results = trainer.fit()
    if results and world.is_main:
        words = trainer.task.words
        best = f"{trainer.progress.best:.2f}{words.unit}"
        log.log(RESULT, "finished: best %s %s; files in %s", words.score, best, trainer.folder.path)
        log.info("its `best` is for: passl-sot predict, export (other engines), serve (with a page)")
    return STOPPED.get(trainer.stopped_by, 0)


def weights_to_evaluate(folder: Path, args) -> str:
    """The checkpoint or weights that `--evaluate-only` means; a CheckpointError if there are none."""
    if args.init_from or args.resume != "auto":
        return args.init_from or args.resume
    saved = RunFolder(folder).latest()
    if saved is None:
        raise CheckpointError(f"nothing to evaluate: no checkpoint in {folder}" + zh("nothing_to_evaluate"))
    return str(saved.path)


def check_run(experiment: Experiment, folder: Path, world: World, args, pretrained: Fill | None) -> None:
    """`--dry-run`: checks data, model and weights, and estimates the run's costs. Writes nothing.

    Arguments are those of `train_run`.

    Raises:
        DataError: The data aren't laid out as the run needs them.
        CheckpointError: The weights to start from can't be read or don't fit the model.
    """
    from passl_sot.engine.dry_run import describe_run  # traces a static program; training doesn't need it

    if not world.is_main:
        return
    # Alone: the other processes have left, and would be waited for without end.
    parts = Parts(experiment, World(), every_item=args.check_all_files, trial=True)
    train, val = parts.train_loader.dataset, parts.val_loader.dataset
    items = parts.task.describe_items(train)
    log.info("config and data are in order: %d training, %d validation %s", len(train), len(val), items)
    _check_start(experiment, parts, folder, args, pretrained)
    for line in describe_run(experiment, parts, world.size):
        log.info(line)


def _check_start(experiment: Experiment, parts: Parts, folder: Path, args, pretrained: Fill | None) -> None:
    """Tries the weights that the command line names."""
    if not args.resume:
        experiment.check_new_run()
    model = parts.model
    if pretrained:
        pretrained(model)
    if args.init_from:
        text = state.start_from(model, read_weights(args.init_from)[0], str(args.init_from))
        log.info("would start from %s", text)
    elif args.resume:
        auto = args.resume == "auto"
        saved = RunFolder(folder).latest() if auto else read_checkpoint(args.resume, check_run_card)
        if saved is None:
            if args.evaluate_only:
                raise CheckpointError(f"nothing to evaluate: {folder} holds no checkpoint")
            experiment.check_new_run()
            log.info("nothing to resume in %s: it would be a new run", folder)
            return
        changes = accept_changes(saved, experiment.to_dict(), args.resume_override)
        accept_data(parts, experiment.dataloader, World(), saved, args.resume_override, log.info)
        state.load_model(model, saved.part("model"), str(saved.path))
        if changes:
            changes = f" with other settings:\n{changes}"
        log.info("would resume from %s%s", saved.path, changes)


def evaluate_run(
    experiment: Experiment,
    weights: str | Checkpoint,
    out: Path | None,
    world: World,
    *,
    tta: Sequence[str] = (),
) -> dict:
    """`tools/eval.py`: evaluates every kind of weights that `weights` holds on the validation split.

    A checkpoint brings its own model, preprocessing and class names; the config brings the data.

    Args:
        weights: A file, or what stands in one.
        out: `metrics.json`; the task's tables and pictures come beside it.
        tta: Views of `tasks.views`, whose mean probabilities are scored.

    Returns:
        The content of `out`: scores of the weights by which the run chose its best ("shown"), the results of
        each kind of weights under "raw" and "ema", and the task's details.

    Raises:
        CheckpointError: The weights don't fit the model, or their classes aren't those of the data.
    """
    by_kind, card = weights_by_kind(weights)
    name = getattr(weights, "path", weights)
    section = experiment.model
    if card:
        section = model_section_of(card)
        difference = diff(experiment.to_dict()["model"], card["config"]["model"])
        if difference:
            log.warning("the checkpoint's own model is used; it differs from the config's:\n%s", difference)
    evaluation = Evaluation(experiment, section.build(), card, world, tta=tta)
    task = evaluation.task
    shown = card.get("best_by", "raw")
    results = {}
    meters = {}
    for kind in sorted(by_kind, key=lambda k: k != shown):  # the one that the files show comes first
        state.load_model(evaluation.model, by_kind[kind], str(name))
        meters[kind] = evaluation.run(f"eval {kind}")
        results[kind] = meters[kind].result()
        if world.is_main:
            scores = "  ".join(f"{name} {value:.4g}" for name, value in results[kind].items())
            log.log(RESULT, "%s  %s", kind, scores)
            doubt = task.doubt(meters[kind])
            if doubt:
                log.warning("%s", doubt)
    facts: dict[str, Any] = {"weights": str(name), "shown": shown}
    if tta:
        facts["tta"] = list(tta)
    meter = meters[shown]
    report = {**facts, **results[shown], **results, **task.details(meter)}
    if out and world.is_main:
        _write_report(out, report, evaluation, meter, f"{Path(name).name}: {shown} weights")
    return report


def weights_by_kind(weights: str | Checkpoint) -> tuple[dict[str, dict[str, np.ndarray]], dict]:
    """The weights of a file, or of what stands in one, by kind ("raw", "ema"), and the header.

    Bare weights have no header, {}: the config's model and preprocessing count then.
    """
    if isinstance(weights, Checkpoint):
        return weights.weights(), weights.meta
    arrays, card = read_weights(weights)
    if not card:
        return {"raw": arrays}, {}
    return read_checkpoint(weights, check_card).weights(), card


def _write_report(out: Path, report: dict, evaluation: Evaluation, meter: Meter, title: str) -> None:
    """Writes `metrics.json` and what the task writes and draws beside it, whose paths the report gets."""
    # The scores first, whatever becomes of tables and pictures.
    write_json(out, report)
    files = evaluation.task.write_files(meter, evaluation.val, out.parent)
    try:
        files += evaluation.task.draw(meter, out.parent, title)
    except ImportError as error:
        log.warning("no picture: %s; pip install matplotlib", error)
    report["files"] = [str(path) for path in files]
    write_json(out, report)
    log.info("written: %s", ", ".join(map(str, (out, *files))))


def write_json(path: Path, content: dict) -> None:
    """Writes a report, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
