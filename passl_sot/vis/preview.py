"""What training and validation read: augmented and mixed batches, and texts as tokens."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from passl_sot.config import UserError
from passl_sot.data import LabelledImages, LabelledTexts, Mixup, build_dataloader
from passl_sot.data.rng import Key, batch_rng
from passl_sot.data.schema import DataSection, SplitSection
from passl_sot.data.tokens import Text, Tokenizer
from passl_sot.vis.page import Page
from passl_sot.vis.pixels import fitted, viewable
from passl_sot.vis.sheet import SIDE, Tile, save_sheet, save_texts

_MOST = 64  # items of a batch that are shown
_VAL = 16
_FRAME = (255, 64, 64)
_STYLE = """<style>
.tokens { line-height: 2; }
.tokens span { padding: 0.1rem 0.25rem; border: 1px solid var(--line); border-radius: 0.25rem; }
.tokens .goes-on { margin-left: -0.3rem; border-left-style: dotted; }
.tokens .special { color: var(--accent); font-style: italic; }
.tokens .unknown { color: var(--wrong); border-color: var(--wrong); }
.tokens .cut { color: var(--quiet); text-decoration: line-through; border-style: dashed; }
.tokens .padding { color: var(--quiet); border-style: dotted; }
</style>"""
_LEGEND = (
    "Blue: special tokens. Joined: pieces of one word. Red: not in the vocabulary. Crossed out: cut off, "
    "which the model doesn't read. Dotted: padding."
)
_MARKS = "[X]: special; a·b: pieces of one word; <x>: not in the vocabulary; {...}: cut off, or padding"


@dataclass(frozen=True)
class TrainingBatch:
    """A batch as training's loader gives it.

    Attributes:
        keys: Of the items that were asked for.
        arrays: As the dataset makes them.
    """

    keys: list[Key]
    arrays: dict[str, np.ndarray]


def training_batches(
    section: SplitSection, *, seed: int, epoch: int, count: int
) -> tuple[Any, list[TrainingBatch], int]:
    """The first batches of an epoch, the very arrays that a run of one process gets.

    Args:
        section: `dataloader.train`.
        seed: The run's.
        epoch: Counted from 0.
        count: How many batches, or all where there are fewer.

    Returns:
        The dataset, the batches, and how many the epoch has.

    Raises:
        DataError: As of `build_dataloader`, and where too many items can't be read.
    """
    # Draws don't depend on the number of workers, and starting them takes longer than a few batches.
    section = replace(section, loader=replace(section.loader, num_workers=0))
    loader = build_dataloader(section, mode="train", seed=seed)
    sampler: Any = loader.sampler
    sampler.set_epoch(epoch)
    keys = itertools.islice(copy.copy(sampler), count)
    batches = [
        TrainingBatch(asked, {name: tensor.numpy() for name, tensor in batch.items()})
        for asked, batch in zip(keys, loader, strict=False)
    ]
    return loader.dataset, batches, len(loader)


def save_preview(data: DataSection, page: Path, *, seed: int, epoch: int, count: int) -> None:
    """Writes a page and beside it a PNG of each of its sections: batches of training, items of validation.

    Args:
        data: `dataloader:`.
        page: Where the page goes.
        seed, epoch, count: As of `training_batches`.

    Raises:
        UserError: The items are neither images nor texts.
    """
    train, batches, total = training_batches(data.train, seed=seed, epoch=epoch, count=count)
    val = build_dataloader(data.val, mode="val", seed=seed).dataset
    for dataset in (train, val):
        if not isinstance(dataset, LabelledImages | LabelledTexts):
            raise UserError(f"preview shows images and texts, not items of {type(dataset).__name__}")
    facts = f"{len(train)} {train.noun}s for training, {len(val)} for validation, in {train.root}"
    shown = Page(f"Preview of epoch {epoch + 1}, seed {seed}", facts)
    for number, batch in enumerate(batches, 1):
        heading = f"Training: epoch {epoch + 1}, batch {number} of {total}"
        picture = page.with_name(f"train_{number}.png")
        if isinstance(train, LabelledTexts):
            _show_texts(shown, picture, heading, train, batch.arrays)
        else:
            _show_batch(shown, picture, heading, train, batch)
    chosen = np.unique(np.linspace(0, len(val) - 1, _VAL).astype(np.int64)).tolist()
    if isinstance(val, LabelledTexts):
        arrays = val.collate([val.sample(index) for index in chosen])
        _show_texts(shown, page.with_name("val.png"), "Validation", val, arrays)
    else:
        _show_val(shown, page.with_name("val.png"), val, chosen)
    shown.save(page)


# -- images ---------------------------------------------------------------------------------------


def label_words(label: Any, class_names: Sequence[str], floor: float = 0.0) -> list[str]:
    """A label of a batch in lines of words: "cat"; "0.7 cat", "+ 0.3 dog" where it is mixed or smoothed.

    Args:
        label: The class's number; or one number for each class.
        class_names: In the order of the numbers; classes beyond them are called by their number.
        floor: What smoothing gives to each class.
    """

    def name(number: int) -> str:
        return class_names[number] if 0 <= number < len(class_names) else str(number)

    if np.ndim(label) == 0:
        return [name(int(label))]
    classes = np.flatnonzero(label > floor + 1e-6)
    classes = classes[np.argsort(-label[classes], kind="stable")].tolist()
    if all(label[c] == 1 for c in classes):
        return [", ".join(map(name, classes)) or "no class"]
    terms = [f"{label[c]:.2g} {name(c)}" for c in classes]
    return [terms[0], *(f"+ {term}" for term in terms[1:])]


def crop_frame(dataset: LabelledImages, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of an image that validation's transforms leave: top, left, bottom, right, as fractions.

    Found by what they do to two pictures whose brightness rises from side to side, so whichever they are;
    exact to a hundredth.
    """
    spans = []
    for axis, length in enumerate((height, width)):
        shape = [1, 1, 1]
        shape[axis] = length
        ramp = np.linspace(0, 255, length).astype(np.uint8).reshape(shape)
        # Gray images are read in three channels.
        channels = dataset.channels
        if channels == 1:
            channels = 3
        picture = np.ascontiguousarray(np.broadcast_to(ramp, (height, width, channels)))
        seen = viewable(every_transform(dataset), dataset.transforms(picture, np.random.default_rng(0)))
        spans.append((float(seen.min()) / 255, float(seen.max()) / 255))
    (top, bottom), (left, right) = spans
    return top, left, bottom, right


def every_transform(dataset: LabelledImages) -> list[Any]:
    """The transforms of a dataset's images, and behind them those of its batches."""
    return [*dataset.transforms.transforms, *getattr(dataset.batch_stage, "transforms", [])]


def _mixing(mixup: Mixup | None, dataset: LabelledImages, batch: TrainingBatch) -> tuple[float, str]:
    """The fraction of each image that is its own, and words for that: drawn again as it was drawn."""
    if mixup is None:
        return 1.0, ""
    epoch = int(batch.keys[0][0])
    own = 1.0
    box = None
    if mixup.off_epoch is None or epoch < mixup.off_epoch:
        height, width = batch.arrays["image"].shape[2:]
        own, box = mixup.draw(height, width, batch_rng(dataset.seed, batch.keys))
    words = "Not mixed."
    if own < 1:
        kind = "Mixup" if box is None else "CutMix"
        words = f"{kind}: {own:.2f} of each label is the image's own, {1 - own:.2f} that of its partner."
    if mixup.label_smoothing and dataset.multi_hot is None:
        words += f" Label smoothing spreads {mixup.label_smoothing:g} of it over all classes."
    return own, words


def _show_batch(page: Page, path: Path, heading: str, dataset: LabelledImages, batch: TrainingBatch) -> None:
    mixup = next((one for one in every_transform(dataset) if isinstance(one, Mixup)), None)
    own, words = _mixing(mixup, dataset, batch)
    floor = 0.0
    if mixup is not None and dataset.multi_hot is None:
        floor = mixup.label_smoothing / mixup.num_classes
    images, labels, places = (batch.arrays[name] for name in ("image", "label", "index"))
    if len(images) > _MOST:
        words += f" The first {_MOST} of {len(images)} images."
    page.section(heading, words.strip())
    tiles = []
    for number, image in enumerate(images[:_MOST]):
        files = [dataset.paths[int(places[number])]]
        partner = len(images) - 1 - number
        if own < 1 and partner != number:
            files.append(f"+ {dataset.paths[int(places[partner])]}")
        key = batch.keys[number]
        if len(key) > 2:
            files.append(f"copy {key[2] + 1}")
        if key[1] != places[number]:
            files.append(f"in place of {dataset.paths[key[1]]}")
        said = label_words(labels[number], dataset.class_names, floor)
        tiles.append(Tile(fitted(viewable(every_transform(dataset), image), SIDE), [*said, *files]))
        page.figure(tiles[-1].picture, "\n".join(tiles[-1].lines), width=SIDE)
    save_sheet(path, f"{heading}\n{words.strip()}", tiles)


def _show_val(page: Page, path: Path, dataset: LabelledImages, chosen: list[int]) -> None:
    heading = "Validation: whole images, and what the model sees of them"
    page.section(heading, f"Of {len(dataset)} images these, evenly spread; red: the part that is seen.")
    tiles = []
    for index in chosen:
        whole = dataset.read(index)
        sample = dataset.sample((0, index))
        height, width = whole.shape[:2]
        top, left, bottom, right = crop_frame(dataset, height, width)
        seen = 100 * (bottom - top) * (right - left)
        thumbnail = fitted(whole, SIDE).copy()
        high, wide = thumbnail.shape[:2]
        first = (round(left * (wide - 1)), round(top * (high - 1)))
        last = (round(right * (wide - 1)), round(bottom * (high - 1)))
        cv2.rectangle(thumbnail, first, last, _FRAME, 2)
        image = viewable(every_transform(dataset), sample["image"])
        said = label_words(sample["label"], dataset.class_names)
        size = f"{image.shape[1]}x{image.shape[0]}"
        tiles += [
            Tile(thumbnail, [*said, f"{width}x{height}, {seen:.0f} % seen", dataset.paths[index]]),
            Tile(fitted(image, SIDE), [*said, size]),
        ]
        for tile in tiles[-2:]:
            page.figure(tile.picture, "\n".join(tile.lines), width=max(tile.picture.shape[1], 120))
    save_sheet(path, heading, tiles)


# -- texts ----------------------------------------------------------------------------------------


def _show_texts(
    page: Page, path: Path, heading: str, dataset: LabelledTexts, arrays: dict[str, np.ndarray]
) -> None:
    tokens = int(arrays["attention_mask"].sum())
    count, width = arrays["attention_mask"].shape
    padding = 100 - 100 * tokens / (count * width)
    words = f"{count} texts of {tokens} tokens, padded to {width}: {padding:.0f} % padding."
    page.section(heading, f"{words}\n{_LEGEND}")
    page.markup(_STYLE)
    items = []
    for place in range(min(count, _MOST)):
        index = int(arrays["index"][place])
        pieces = pieces_of(dataset.tokenizer, dataset.texts(index))
        padded = width - int(arrays["attention_mask"][place].sum())
        if padded:
            pieces.append(Piece(f"{padded} padding", "padding"))
        label = ""
        if "label" in arrays:
            label = f"{arrays['label'][place]:g}"
            if not dataset.regression:
                (label,) = label_words(arrays["label"][place], dataset.class_names)
        said = f"{label}  ({dataset.paths[index]})".strip()
        spans = [f'<span class="{piece.kinds}">{escape(piece.text)}</span>' for piece in pieces]
        page.markup(f'<div class="wide tokens"><b dir="auto">{escape(said)}</b><br>{" ".join(spans)}</div>')
        items.append([said, _plain(pieces)])
    save_texts(path, f"{heading}: {words}\n{_MARKS}", items)


@dataclass(frozen=True)
class Piece:
    """A part of a text as the model reads it, or doesn't.

    Attributes:
        text: What is shown.
        kinds: Of "special", "goes-on" (with the word of the token before it), "unknown", "cut" (off) and
            "padding", with blanks between them.
    """

    text: str
    kinds: str = ""


def pieces_of(tokenizer: Tokenizer, text: Text) -> list[Piece]:
    """The tokens of a text or a pair, as parts of it, and what is cut off behind the last one of each."""
    parts = text if isinstance(text, tuple) else (text,)
    places = tokenizer.places(text)
    encoding = tokenizer.encode([text])[0]
    last = [max((p.end for p in places if p is not None and p.text == part), default=0) for part in (0, 1)]
    found = []
    before: Any = None
    for number, place in zip(encoding.ids.tolist(), places, strict=True):
        if place is None:
            found.append(Piece(tokenizer.name_of(number), "special"))
            before = None
            continue
        kinds = ["goes-on"] * (before == place[:2]) + ["unknown"] * (number == tokenizer.unknown_id)
        found.append(Piece(parts[place.text][place.begin : place.end].strip() or "␣", " ".join(kinds)))
        before = place[:2]
        rest = parts[place.text][place.end :].strip()
        if encoding.cut and place.end == last[place.text] and rest:
            found.append(Piece(rest, "cut"))
    return found


def _plain(pieces: Sequence[Piece]) -> str:
    """The same on one line, without colors."""
    line = ""
    for piece in pieces:
        text = piece.text
        if "unknown" in piece.kinds:
            text = f"<{text}>"
        elif piece.kinds in ("cut", "padding"):
            text = f"{{{text}}}"
        line += ("·" if "goes-on" in piece.kinds else " ") + text
    return " ".join(line.split())
