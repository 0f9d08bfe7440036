"""Whole runs as the command line starts them: train, check, evaluate."""

import csv
import json
from pathlib import Path

import numpy as np

from passl_sot.config import Config, diff
from passl_sot.config.chinese import zh
from passl_sot.config.schema import make_section
from passl_sot.data import build_dataloader, check_data
from passl_sot.engine.distributed import World, start
from passl_sot.engine.evaluate import evaluate, softmax
from passl_sot.engine.resume import accept_changes
from passl_sot.engine.run_dir import RunFolder
from passl_sot.engine.schema import Experiment
from passl_sot.engine.trainer import Fill, Trainer
from passl_sot.metrics import ClassificationMeter, MultiLabelMeter, write_label_report, write_report
from passl_sot.modeling.classifier import Classifier
from passl_sot.utils.logger import get_logger
from passl_sot.weights import state
from passl_sot.weights.checkpoint import CheckpointError, find_latest, kinds_of, read_checkpoint, read_weights

log = get_logger()


def train_run(cfg: Config, config_path: Path, args, note: str, pretrained: Fill | None = None) -> None:
    """Trains (or, with `--evaluate-only`, evaluates) what `cfg` describes.

    Args:
        cfg: A checked experiment.
        config_path: Its file; the run's folder is named after it.
        args: The command line's `resume`, `resume_override`, `init_from`, `evaluate_only`, `check_all_files`,
            `override`.
        note: A line about the environment to log first.
        pretrained: What gives a new model the weights that `--pretrained` names.
    """
    folder = Path(cfg.get("output_dir", "output")) / config_path.stem
    if args.evaluate_only:
        evaluate_run(cfg, _weights_to_evaluate(folder, args), None, note=note)
        return
    distributed = make_section(Experiment, cfg).distributed
    world = start(cfg.get("device", "auto"), sharding=distributed.sharding)
    if world.is_main:
        log.info(note)
    trainer = Trainer(
        cfg,
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
        score = {"top1": "top-1", "map": "mean average precision"}[trainer.score]
        log.info("finished: best %s %.2f %%; files in %s", score, trainer.progress.best, trainer.folder.path)


def _weights_to_evaluate(folder: Path, args) -> str:
    if args.init_from:
        return args.init_from
    if args.resume != "auto":
        return args.resume
    saved = RunFolder(folder).latest()
    if saved is None:
        raise CheckpointError(f"nothing to evaluate: no checkpoint in {folder}" + zh("nothing_to_evaluate"))
    return str(saved.path)


def check_run(cfg: Config, config_path: Path, args, note: str, pretrained: Fill | None = None) -> None:
    """`--dry-run`: data layout, model and weights, then an estimate of what the run needs. Writes nothing.

    Args:
        cfg: A checked experiment.
        config_path: Its file; the run's folder is named after it.
        args: The command line's `resume`, `resume_override`, `init_from`, `evaluate_only`, `check_all_files`.
        note: A line about the environment to log first.
        pretrained: What gives a new model the weights that `--pretrained` names.

    Raises:
        DataError: The data aren't laid out as the run needs them.
        CheckpointError: The weights to start from can't be read or don't fit the model.
    """
    from passl_sot.engine.dry_run import describe_run  # traces a static program; training doesn't need it

    experiment: Experiment = make_section(Experiment, cfg)
    world = start(cfg.get("device", "auto"))
    train = build_dataloader(cfg.dataloader.train, mode="train", seed=experiment.seed)
    val = build_dataloader(cfg.dataloader.val, mode="val", seed=experiment.seed)
    if not world.is_main:
        return
    log.info(note)
    check_data(
        train.dataset,
        val.dataset,
        cfg.model.head.num_classes,
        sample="all" if args.check_all_files else 64,
        progress=args.check_all_files,
        max_bad=experiment.dataloader.train.loader.max_bad,
        timeout=experiment.dataloader.train.loader.timeout,
    )
    log.info(
        "config and data are in order: %d training, %d validation images, %d classes",
        len(train.dataset),
        len(val.dataset),
        len(train.dataset.class_names),
    )
    _check_start(cfg, Path(cfg.get("output_dir", "output")) / config_path.stem, args, pretrained)
    for line in describe_run(experiment, cfg, train.dataset, val.dataset, world.size):
        log.info(line)


def _check_start(cfg: Config, folder: Path, args, pretrained: Fill | None) -> None:
    """Tries the weights that the command line names on a model that is then thrown away."""
    if pretrained:
        pretrained(Classifier(architecture=cfg.model.architecture, head=cfg.model.head))
    if args.init_from:
        model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
        text = state.start_from(model, read_weights(args.init_from)[0], str(args.init_from))
        log.info("would start from %s", text)
    elif args.resume:
        auto = args.resume == "auto"
        saved = find_latest(folder, log.warning) if auto else read_checkpoint(args.resume)
        if saved is None and args.evaluate_only:
            raise CheckpointError(f"nothing to evaluate: {folder} holds no checkpoint")
        if saved is None:
            log.info("nothing to resume in %s: it would be a new run", folder)
            return
        changes = accept_changes(saved, cfg, args.resume_override)
        model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
        state.load_model(model, saved.part("model"), str(saved.path))
        log.info("would resume from %s%s", saved.path, f" with other settings:\n{changes}" if changes else "")


def evaluate_run(cfg: Config, weights: str, out: Path | None, *, note: str) -> dict:
    """`tools/eval.py`: evaluates every kind of weights that `weights` holds on the validation split.

    A checkpoint brings its own model, preprocessing and class names; the config brings the data.

    Args:
        cfg: A checked experiment.
        weights: A checkpoint or bare weights; the suffix may be left out.
        out: `metrics.json`; `per_class.csv`, `predictions.csv` and, where images have one label each,
            `confusion.csv` and `confusion.png` are written beside it.
        note: A line about the environment to log first.

    Returns:
        What `out` holds: accuracies (%), loss and per-class scores of the weights by which the run chose
        its best ("shown"), and the results of each kind of weights under "raw" and "ema".

    Raises:
        CheckpointError: The weights don't fit the model, or their classes aren't those of the data.
    """
    world = start(cfg.get("device", "auto"))
    if world.is_main:
        log.info(note)
    arrays, meta = read_weights(weights)
    kinds = kinds_of(read_checkpoint(weights)) if meta else ["raw"]
    model_cfg, split = cfg.model, cfg.dataloader.val
    if meta:
        model_cfg, split = _from_checkpoint(cfg, meta)
    loader = build_dataloader(
        split, mode="val", seed=0, rank=world.rank, world_size=world.size, class_names=meta.get("class_names")
    )
    names = loader.dataset.class_names
    num_classes = model_cfg.head.num_classes
    if num_classes < len(names):
        raise CheckpointError(
            f"the model has {num_classes} classes, the data {len(names)}: set model.head.num_classes"
        )
    names = names + [str(i) for i in range(len(names), num_classes)]
    model = Classifier(architecture=model_cfg.architecture, head=model_cfg.head)
    shown = meta.get("best_by", "raw")
    results = {}
    for kind in sorted(kinds, key=lambda k: k == shown):  # the one that the files show comes last
        state.load_model(model, read_weights(weights, kind)[0] if meta else arrays, weights)
        rows = _Rows(len(loader.dataset)) if loader.dataset.multi_hot is None else None
        take = rows.take if rows else None
        meter = evaluate(model, loader, num_classes, world, description=f"eval {kind}", on_batch=take)
        results[kind] = meter.result()
        if world.is_main:
            log.info("%s  %s", kind, "  ".join(f"{k} {v:.4g}" for k, v in results[kind].items()))
    if rows:
        rows.gather(world)
    per_class = [{"name": n, **row} for n, row in zip(names, meter.per_class(), strict=True)]
    facts = {"weights": str(weights), "shown": shown}
    report = {**facts, **results[shown], **results, "per_class": per_class}
    if out and world.is_main:
        if isinstance(meter, MultiLabelMeter):
            paths = [loader.dataset.path(i) for i in range(len(loader.dataset))]
            files = write_label_report(meter, names, paths, out.parent)
        else:
            files = _write_evaluation(out.parent, meter, rows, names, loader.dataset)
        report["files"] = [str(p) for p in files]
        _write_json(out, report)
        log.info("written: %s", ", ".join(map(str, (out, *files))))
    return report


def _from_checkpoint(cfg: Config, meta: dict) -> tuple[Config, Config]:
    model = Config(meta["config"]["model"])
    difference = diff(Config(cfg.model), model)
    if difference:
        log.warning("the checkpoint's own model is used; it differs from the config's:\n%s", difference)
    split = Config(cfg.dataloader.val)
    split.dataset = Config({**split.dataset, **meta["preprocessing"]})
    return model, split


class _Rows:
    """What was predicted for each image, by its index in the dataset."""

    def __init__(self, images: int):
        self.label = np.zeros(images, np.int64)
        self.predicted = np.zeros(images, np.int64)
        self.probability = np.zeros(images, np.float64)

    def take(self, index: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> None:
        probabilities = softmax(logits)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, 0]
        self.label[index], self.predicted[index] = labels, best
        self.probability[index] = probabilities[np.arange(len(best)), best]

    def gather(self, world: World) -> None:
        """Every image is evaluated by one process, so the sum over processes is the whole."""
        self.label, self.predicted = world.sum(self.label), world.sum(self.predicted)
        self.probability = world.sum(self.probability)


def _write_json(out: Path, report: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_evaluation(
    folder: Path, meter: ClassificationMeter, rows: _Rows, names: list[str], dataset
) -> list[Path]:
    files = write_report(meter, names, folder)
    table = folder / "predictions.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "class", "name", "probability"])
        for i, (label, best, p) in enumerate(zip(rows.label, rows.predicted, rows.probability, strict=True)):
            writer.writerow([dataset.path(i), int(label), int(best), names[best], f"{p:.6f}"])
    return [*files, table]
