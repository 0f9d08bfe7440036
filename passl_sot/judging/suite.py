"""Several checkpoints on several sets: one row for each checkpoint, kind of weights and set.

What was computed is kept below `cache_folder()`, in the folder `suites`, by all that it depends on: a suite
that was interrupted, or has got another set or checkpoint, computes what is new alone. Delete the folder to
have all computed anew.
"""

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl_sot.config import UserError, zh
from passl_sot.data import LabelledImages, build_dataloader
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.imagenet import COUNT, imagenet_classes
from passl_sot.data.schema import SplitSection
from passl_sot.engine.distributed import World
from passl_sot.engine.entry import weights_by_kind
from passl_sot.engine.evaluate import evaluate
from passl_sot.engine.schema import Experiment
from passl_sot.judging.corrupted import CorruptedImages, makers
from passl_sot.judging.corruption import corruption_errors
from passl_sot.judging.sets import ImageSet
from passl_sot.judging.speed import machine, throughput
from passl_sot.metrics import ClassificationMeter
from passl_sot.published.cards import find_card
from passl_sot.tasks.base import header_for, model_section_of, task_class, task_of
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.tasks.labelled import RowMeter
from passl_sot.tasks.views import ViewedModel, Views
from passl_sot.utils.cache import HOME, cache_folder, keep_note, kept_note
from passl_sot.utils.files import sha256_of
from passl_sot.utils.logger import RESULT, get_logger
from passl_sot.version import __version__
from passl_sot.weights import state

log = get_logger()
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Entrant:
    """A checkpoint that is judged.

    Attributes:
        name: As it was given: a path, or the name of published weights.
        weights: By kind, "raw" and "ema", and by Paddle names.
        digest: The checksum of the file.
        card: Its header, or what the config of bare weights makes of one.
        split: How images are read.
        columns: The output for each of ImageNet-1K's classes, int64 [1000].
    """

    name: str
    weights: dict[str, dict[str, np.ndarray]]
    digest: str
    card: Mapping[str, Any]
    split: SplitSection
    columns: np.ndarray

    @classmethod
    def read(cls, name: str, path: Path, experiment: Experiment) -> "Entrant":
        """Reads a file of weights.

        Args:
            experiment: The config: of a checkpoint for how images are read, of bare weights for all else too.

        Raises:
            CheckpointError: It can't be read.
            UserError: It is no model of images, or of other classes than ImageNet-1K's.
        """
        # Of bare weights there is no header: their config says what one would.
        weights, card = weights_by_kind(str(path))
        card = card or header_for(experiment)
        if not issubclass(task_class(card["config"].get("task")), ClassificationTask):
            raise UserError(f"{name} is no classifier of images, for which the sets of --suite are")
        split = experiment.dataloader.val
        return cls(name, weights, sha256_of(path), card, split, _columns(name, card))

    def published(self) -> dict[str, float]:
        """Published top-1 accuracies in percent, by the names of sets."""
        meta = self.card["config"].get("meta") or {}
        found = {"val": meta.get("published_top1"), "a": meta.get("published_imagenet_a")}
        card = find_card(self.name)
        if card is not None and card.classes:
            found["val"] = card.top1
        return {name: figure for name, figure in found.items() if figure is not None}


def _columns(name: str, card: Mapping[str, Any]) -> np.ndarray:
    """The output for each class of ImageNet-1K; a UserError where there is none for some."""
    known = imagenet_classes()
    names = card["class_names"]
    for theirs in (card.get("class_ids", names), names):
        for ours in ([c.id for c in known], [c.name for c in known]):
            # A model of more classes, such as of ImageNet-21K with names, will do.
            if set(ours) <= set(theirs):
                places = {text: place for place, text in enumerate(theirs)}
                return np.array([places[text] for text in ours], np.int64)
    usual = [str(number) for number in range(COUNT)]
    if names == usual:  # that of folders named by ids
        return np.arange(COUNT)
    shown = ", ".join(map(repr, names[:3]))
    raise UserError(
        f"{name} knows {len(names):,} classes ({shown}, ...), not the {COUNT:,} of ImageNet-1K, of which the "
        "sets of --suite are" + zh("suite_classes")
    )


class SetMeter:
    """The scores of a set: outputs are cut down to its classes, and an image may have several right ones.

    An image with several right classes counts as one of that which is predicted, or of its first.

    Args:
        answers: As of `ImageSet`.
        columns: The model's output for each of the set's classes, int64 [K].
    """

    def __init__(self, answers: np.ndarray, columns: np.ndarray):
        self._answers = answers
        self._columns = columns
        self._meter = RowMeter(ClassificationMeter(len(columns)), len(answers))

    def take(self, index: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        """Takes in a batch: logits [B, outputs] of the images `index` [B]; `labels` [B] don't matter."""
        logits = logits[:, self._columns]
        best = logits.argmax(axis=1)
        answers = self._answers[index]
        # Answers are filled up with -1, which no class is.
        right = (answers == best[:, None]).any(axis=1)
        self._meter.take(index, logits, np.where(right, best, answers[:, 0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)


def run_suite(
    entrants: Sequence[Callable[[], Entrant]],
    groups: Sequence[Sequence[ImageSet]],
    world: World,
    report: Callable[[list[Row]], None],
    *,
    tta: Sequence[str] = (),
) -> list[Row]:
    """Judges checkpoints on sets.

    Args:
        entrants: Each reads one, when its turn comes.
        groups: What `find_set` gave for each set.
        report: Called in the main process with all rows so far, whenever there is another one.
        tta: Views of `tasks.views`, whose mean probabilities are scored.

    Returns:
        The rows: `checkpoint`, `weights`, `tta`, `set`, `folder`, `images`, `partial`, scores by their names,
        and `published` and `difference` of top-1 where the figure is of this very set, seen in one view;
        `images_per_s`, of the checkpoint's `speed.throughput`, all views counted as one image, on `machine`.
    """
    # One checkpoint at a time, so that a long list of large ones needs the memory of one.
    rows: list[Row] = []
    for read in entrants:
        entrant = read()
        model = model_section_of(entrant.card).build()
        speed = _speed(entrant, model, world, tta)
        for kind in sorted(entrant.weights, key=lambda kind: kind != entrant.card.get("best_by", "raw")):
            state.load_model(model, entrant.weights[kind], entrant.name)
            clean = None
            # The errors on corrupted images are compared with that on the clean ones.
            for group in sorted(groups, key=lambda group: bool(group[0].corruption)):
                results = [_result(entrant, kind, model, part, world, tta) for part in group]
                row = _row(entrant, kind, group, results, clean, tta) | speed
                if row["name"] == "val":
                    clean = row
                rows.append(row)
                if world.is_main:
                    report(rows)
    return rows


def _asked(entrant: Entrant, model: paddle.nn.Layer, tta: Sequence[str]) -> tuple[Any, paddle.nn.Layer]:
    """A checkpoint's task, and what answers: the model, or the mean of its views."""
    task = task_of(entrant.card)
    return task, ViewedModel(model, Views(tta, task)) if tta else model


def _speed(entrant: Entrant, model: paddle.nn.Layer, world: World, tta: Sequence[str]) -> Row:
    """What rows say of a checkpoint's speed: measured each time, as scores alone are kept."""
    asked = _asked(entrant, model, tta)[1]
    asked.eval()
    image = (model.backbone.in_chans, *model.backbone.img_size)
    return {"images_per_s": throughput(asked, image, world), "machine": machine()}


def _result(
    entrant: Entrant, kind: str, model: paddle.nn.Layer, part: ImageSet, world: World, tta: Sequence[str]
) -> dict[str, float]:
    """The scores of one part, kept from before or computed."""
    data = _dataset(entrant, part)
    what = f"{entrant.name} {kind} on {part.title}"
    home = cache_folder() / "suites"
    kept = None
    if world.is_main:
        file = home / f"{_key(entrant, kind, part, data, tta)}.json"
        kept = kept_note(file, _fits)
    kept = world.gather_objects(kept)[0]  # all have to compute, or none
    if kept is not None:
        if world.is_main:
            log.info("%s: kept from %s, not computed again (%s)", what, kept["date"], home)
        return kept["scores"]
    task, asked = _asked(entrant, model, tta)
    # The usual meter counts all of the outputs; here those of the set's classes compete alone.
    task.new_meter = lambda _: SetMeter(part.answers, entrant.columns[part.classes])
    place: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    loader = build_dataloader(entrant.split, mode="val", seed=0, dataset=data, **place)
    scores = evaluate(asked, loader, task, world, description=what).result()  # type: ignore[union-attr]
    if world.is_main:
        _keep(file, {"what": what, "folder": part.folder, "date": _today(), "scores": scores})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        log.log(RESULT, "%s: %s", what, shown)
    return scores


def _dataset(entrant: Entrant, part: ImageSet) -> LabelledImages:
    """The images of a part, prepared as the checkpoint says."""
    node = entrant.card["preprocessing"]
    transforms = node["transforms"]
    if part.corruption:
        transforms = list(_of_cut_images(transforms))
    known = imagenet_classes()
    kind: Any = LabelledImages
    if part.made_here:
        kind = functools.partial(CorruptedImages, part.corruption, part.severity)
    return kind(
        root=part.root,
        paths=StringTable(part.paths),
        labels=part.answers[:, 0],
        class_names=[known[number].id for number in part.classes],
        transforms=transforms,
        apply_exif=node.get("apply_exif", True),
        channels=node.get("channels", 3),
    )


def _of_cut_images(transforms: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Transforms for images that are cut out already, 224 pixels wide and high, as ImageNet-C's are."""
    # Its authors' test.py cuts 224 pixels out of them without a resize, which other sizes need.
    sides = [node["size"] for node in transforms if node["name"] == "CenterCrop"]
    for node in transforms:
        if node["name"] == "Resize" and sides:
            yield {**node, "size": sides[0], "crop_pct": 1.0}
        else:
            yield dict(node)


def _key(entrant: Entrant, kind: str, part: ImageSet, data: LabelledImages, tta: Sequence[str]) -> str:
    """All that the scores depend on, as the name of a file."""
    total = hashlib.sha256()
    settings = [
        __version__,
        entrant.digest,
        kind,
        entrant.card["config"]["model"],
        entrant.card["preprocessing"],
    ]
    if part.made_here:
        # Another version of these packages may draw other pixels.
        settings += makers()
    total.update(json.dumps([*settings, part.title, entrant.columns.tolist(), *tta], sort_keys=True).encode())
    for array in (part.classes, part.answers, *data.identity().values()):
        total.update(array.tobytes())
    return total.hexdigest()[:32]


def _fits(found: Row) -> bool:
    """Whether a note of scores is whole."""
    return all(isinstance(value, float | int) for value in found["scores"].values()) and bool(found["date"])


def _keep(file: Path, found: Row) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        keep_note(file, found)
    except OSError as error:
        log.warning("%s: set %s to a folder where scores can be kept", error, HOME)


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _row(
    entrant: Entrant,
    kind: str,
    group: Sequence[ImageSet],
    results: Sequence[Mapping[str, float]],
    clean: Row | None,
    tta: Sequence[str],
) -> Row:
    """The row of a set, by the scores of its parts."""
    first = group[0]
    means = {name: float(np.mean([scores[name] for scores in results])) for name in results[0]}
    # No author of these sets gives it, and of parts of a set it would not be a mean.
    means.pop("macro_f1")
    means.pop("images")
    if not first.kind.top5:
        means.pop("top5", None)
    row: Row = {
        "checkpoint": entrant.name,
        "weights": kind,
        "tta": ", ".join(tta),
        "name": first.name,
        "set": first.kind.title,
        "folder": first.folder,
        "images": sum(len(part.paths) for part in group),
        "partial": first.partial,
        **means,
    }
    if first.corruption:
        row |= corruption_errors(group, results, clean)
    figure = entrant.published().get(first.name)
    if figure is not None and not row["partial"] and not tta:
        row |= {"published": figure, "difference": row["top1"] - figure}
    return row
