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
from passl_sot.data.tokens import Piece
from passl_sot.data.transforms.image import Normalize
from passl_sot.vis.page import Page
from passl_sot.vis.sheet import SIDE, Tile, as_picture, save_sheet, save_texts, small

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
    loader.sampler.set_epoch(epoch)
    keys = itertools.islice(copy.copy(loader.sampler), count)
    batches = [
        TrainingBatch(asked, {name: tensor.numpy() for name, tensor in batch.items()})
        for asked, batch in zip(keys, loader, strict=False)
    ]
    return loader.dataset, batches, len(loader)


def save_preview(data: DataSection, folder: Path, *, seed: int, epoch: int, count: int) -> list[Path]:
    """Writes preview.html and a PNG for each of its sections: batches of training, items of validation.

    Args:
        data: `dataloader:`.
        folder: Where they go.
        seed, epoch, count: As of `training_batches`.

    Returns:
        The files, the page first.
    """
    train, batches, total = training_batches(data.train, seed=seed, epoch=epoch, count=count)
    val = build_dataloader(data.val, mode="val", seed=seed).dataset
    for dataset in (train, val):
        if not isinstance(dataset, LabelledImages | LabelledTexts):
            raise UserError(f"preview shows images and texts, not items of {type(dataset).__name__}")
    facts = f"{len(train)} {train.noun}s for training, {len(val)} for validation, in {train.root}"
    page = Page(f"Preview of epoch {epoch + 1}, seed {seed}", facts)
    files = []
    for number, batch in enumerate(batches, 1):
        heading = f"Training: epoch {epoch + 1}, batch {number} of {total}"
        files.append(folder / f"train_{number}.png")
        if isinstance(train, LabelledTexts):
            _show_texts(page, files[-1], heading, train, batch.arrays)
        else:
            _show_batch(page, files[-1], heading, train, batch)
    files.append(folder / "val.png")
    chosen = np.unique(np.linspace(0, len(val) - 1, _VAL).astype(np.int64))
    if isinstance(val, LabelledTexts):
        arrays = val.collate([val.sample(int(index)) for index in chosen])
        _show_texts(page, files[-1], "Validation", val, arrays)
    else:
        _show_val(page, files[-1], val, chosen.tolist())
    page.save(folder / "preview.html")
    return [folder / "preview.html", *files]


# -- images ---------------------------------------------------------------------------------------


def viewable(dataset: LabelledImages, image: np.ndarray) -> np.ndarray:
    """A normalized image, float32 [C, H, W], as the bytes that it was: uint8 [H, W, C].

    What lies outside of their range, as the noise of RandomErasing, is cut off.
    """
    normalize = _find(dataset, Normalize)
    pixels = image.transpose(1, 2, 0)
    if normalize is None:
        # By a transform of the user's own: its brightest and darkest become white and black.
        low = pixels.min()
        pixels = (pixels - low) / max(float(pixels.max() - low), 1e-12)
    else:
        pixels = pixels * np.array(normalize.std, np.float32) + np.array(normalize.mean, np.float32)
    return np.rint(np.clip(255 * pixels, 0, 255)).astype(np.uint8)


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
        ramp = np.linspace(0, 255, length).astype(np.uint8).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        channels = 3 if dataset.channels == 1 else dataset.channels
        picture = np.ascontiguousarray(np.broadcast_to(ramp, (height, width, channels)))
        seen = viewable(dataset, dataset.transforms(picture, np.random.default_rng(0)))
        spans.append((float(seen.min()) / 255, float(seen.max()) / 255))
    (top, bottom), (left, right) = spans
    return top, left, bottom, right


def _find(dataset: LabelledImages, kind: type) -> Any:
    """A transform of the dataset, of images or of batches; None where it has none of that kind."""
    every = [*dataset.transforms.transforms, *getattr(dataset.batch_stage, "transforms", [])]
    return next((transform for transform in every if isinstance(transform, kind)), None)


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
    mixup = _find(dataset, Mixup)
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
        tiles.append(Tile(small(as_picture(viewable(dataset, image))), [*said, *files]))
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
        thumbnail = small(as_picture(whole)).copy()
        high, wide = thumbnail.shape[:2]
        first = (round(left * (wide - 1)), round(top * (high - 1)))
        last = (round(right * (wide - 1)), round(bottom * (high - 1)))
        cv2.rectangle(thumbnail, first, last, _FRAME, 2)
        image = viewable(dataset, sample["image"])
        said = label_words(sample["label"], dataset.class_names)
        size = f"{image.shape[1]}x{image.shape[0]}"
        tiles += [
            Tile(thumbnail, [*said, f"{width}x{height}, {seen:.0f} % seen", dataset.paths[index]]),
            Tile(small(as_picture(image)), [*said, size]),
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
        pieces = dataset.tokenizer.pieces(dataset.texts(index))
        padded = width - int(arrays["attention_mask"][place].sum())
        label = ""
        if "label" in arrays:
            number = arrays["label"][place]
            label = f"{number:g}"
            if not dataset.regression:
                (label,) = label_words(number, dataset.class_names)
        unknown = dataset.tokenizer.unknown_id
        said = f"{label}  ({dataset.paths[index]})".strip()
        tokens = _html(pieces, unknown, padded)
        page.markup(f'<div class="wide tokens"><b dir="auto">{escape(said)}</b><br>{tokens}</div>')
        items.append([said, *_plain(pieces, unknown, padded)])
    marks = "name: special; a·b: pieces of a word; <x>: not in the vocabulary"
    save_texts(path, f"{heading}: {words}\n{marks}", items)


def _html(pieces: Sequence[Piece], unknown: int, padded: int) -> str:
    spans = []
    for piece in pieces:
        kinds = {
            "special": piece.special,
            "goes-on": piece.continues,
            "unknown": piece.id == unknown,
            "cut": not piece.kept,
        }
        names = " ".join(kind for kind, holds in kinds.items() if holds)
        text = escape(_shown(piece))
        spans.append(f'<span class="{names}">{text}</span>')
    if padded:
        spans.append(f'<span class="padding">{padded} padding</span>')
    return " ".join(spans)


def _shown(piece: Piece) -> str:
    return piece.text.strip().encode("utf-8", "replace").decode() or "␣"


def _plain(pieces: Sequence[Piece], unknown: int, padded: int) -> list[str]:
    """The same as lines: what the model reads, and what was cut off."""
    lines = []
    for kept in (True, False):
        line = ""
        for piece in (piece for piece in pieces if piece.kept == kept):
            text = _shown(piece)
            if piece.id == unknown:
                text = f"<{text}>"
            line += ("·" if piece.continues else " ") + text
        lines.append(line.strip().replace("\n", " "))
    read, cut = lines
    if padded:
        read += f"  + {padded} padding"
    return [read, *([f"cut off: {cut}"] if cut else [])]
