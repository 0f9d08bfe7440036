"""The base class of the datasets of labelled texts, and a folder of them."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from passl_sot.config import Count, Range, zh
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.datasets.folders import VAL_SHARE, scan_folder
from passl_sot.data.datasets.identity import differences, digest, keep
from passl_sot.data.datasets.labelled_items import LabelledItems
from passl_sot.data.datasets.string_table import StringTable
from passl_sot.data.datasets.tables import TextEncoding, decode, text_fault
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.loader.shared_buffers import size_of
from passl_sot.data.rng import Key
from passl_sot.data.text_files import read_bytes
from passl_sot.data.token_files import TokenizerSection
from passl_sot.data.tokens import Text, make_tokenizer, pad, padded_length
from passl_sot.utils.logger import progress_bar

_LOGGER = logging.getLogger("passl_sot.data")
_CHUNK = 1024
_MANY = 20_000  # texts from which a bar is drawn


class LabelledTexts(LabelledItems):
    """Base class of the datasets of labelled texts, or of pairs of texts.

    Texts become numbers of tokens once, when the dataset is made. Batches hold `input_ids`, `attention_mask`
    and `token_type_ids`, int64 [B, L] with L of their longest text, or `pad_to`; `index` int64 [B]; and
    `label` int64 [B], or float32 [B] in a regression, but for texts without labels.

    Args:
        root: Folder that paths start from.
        paths: Where each text stands, such as "train.tsv:12".
        texts: The texts.
        labels: Label of each, int64 [N], or float32 [N] in a regression; None where they have none.
        class_names: Names of the classes, in label order; of a regression the one name of what is measured.
        tokenizer: See `TokenizerSection`.
        max_length: Tokens of a text with all special ones; the rest is cut off, of two texts from the longer.
        pad_to: Pad each batch to so many tokens, `max_length` or more, as the published numbers were made.
        regression: Whether labels are measures rather than numbers of classes.

    Attributes:
        tokenizer: Its `max_length` counts, which a tokenizer that comes as a text brings along.
        lengths: Tokens of each text, int32 [N].
        num_types: Kinds of tokens, 2 where second texts are told apart.
        num_cut: Texts that were cut.
        num_unknown: Tokens that aren't in the vocabulary.
    """

    noun = "text"

    def __init__(
        self,
        *,
        root: str,
        paths: StringTable,
        texts: Sequence[Text],
        labels: np.ndarray | None,
        class_names: Sequence[str],
        tokenizer: TokenizerSection,
        max_length: int,
        pad_to: int | None,
        regression: bool = False,
    ):
        self.root = root
        self.paths = paths
        self.labels = labels
        self.multi_hot = None
        self.named = True
        self.class_names = list(class_names)
        self.found_classes = list(class_names)
        self.tokenizer = make_tokenizer(tokenizer, max_length)
        self.max_length = self.tokenizer.max_length
        if pad_to is not None and pad_to < self.max_length:
            raise ValueError(f"pad_to is {pad_to}, fewer tokens than max_length, {self.max_length}")
        self.pad_to = pad_to
        self.regression = regression
        self.pairs = isinstance(texts[0], tuple)
        # All first texts, or all texts where they are alone; and all second ones.
        columns = zip(*texts, strict=True) if self.pairs else [texts]
        self._texts = [StringTable(column) for column in columns]  # type: ignore[arg-type]
        self._tokenize(texts)

    def _tokenize(self, texts: Sequence[Text]) -> None:
        ids = []
        types = []
        cut = np.zeros(len(texts), np.int64)
        self.lengths = np.zeros(len(texts), np.int32)
        shown = len(texts) > _MANY
        with progress_bar(total=len(texts), desc=f"tokenizing {self.root}", unit="text", shown=shown) as bar:
            for first in range(0, len(texts), _CHUNK):
                found = self.tokenizer.encode(texts[first : first + _CHUNK])
                place = slice(first, first + len(found))
                self.lengths[place] = [len(encoding.ids) for encoding in found]
                cut[place] = [encoding.cut for encoding in found]
                ids.append(np.concatenate([encoding.ids for encoding in found]))
                types.append(np.concatenate([encoding.types for encoding in found]).astype(np.int8))
                bar.update(len(found))
        # Flat, so that workers share them.
        self._ids = np.concatenate(ids)
        self._types = np.concatenate(types)
        self.num_types = 1 + int(self._types.max())
        self._ends = np.cumsum(self.lengths, dtype=np.int64)
        self.num_unknown = int((self._ids == self.tokenizer.unknown_id).sum())
        self.num_cut = int((cut > 0).sum())
        if self.num_cut:
            _LOGGER.info(
                "%d of %d texts (%s) are longer than max_length, %d tokens: %d tokens were cut off"
                + zh("texts_cut"),
                self.num_cut,
                len(texts),
                self.path(int(cut.argmax())),
                self.max_length,
                cut.sum(),
            )

    def texts(self, index: int) -> Text:
        """One text as it was read, or two."""
        first, *second = (table[index] for table in self._texts)
        return (first, second[0]) if second else first

    def __getitem__(self, key: int | Key) -> dict[str, Any]:
        """As `sample`."""
        return self.sample(key)

    def sample(self, key: int | Key, out: np.ndarray | None = None) -> dict[str, Any]:
        """As of `Dataset`, with the tokens of one text; `key` may be an index alone."""
        index = key[1] if isinstance(key, tuple) else key
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index = int(index) % len(self)
        end = self._ends[index]
        place = slice(end - self.lengths[index], end)
        sample = {"input_ids": self._ids[place], "token_type_ids": self._types[place], "index": index}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """As of `Dataset`: padded."""
        batch = pad(samples, self.tokenizer.pad_id, pad_to=self.pad_to, longest=self.max_length)
        batch["index"] = np.array([sample["index"] for sample in samples], np.int64)
        if self.labels is not None:
            batch["label"] = np.array([sample["label"] for sample in samples], self.labels.dtype)
        return batch

    def slot_bytes(self, batch_size: int) -> int:
        """As of `Dataset`."""
        length = padded_length(int(self.lengths.max()), self.pad_to, self.max_length)
        return 3 * size_of((batch_size, length), 8) + 2 * size_of((batch_size,), 8)

    def item_lengths(self) -> np.ndarray:
        """The numbers of tokens."""
        return self.lengths

    def balanced_by(self) -> np.ndarray:
        """The labels; a DataError where they aren't of classes."""
        if self.regression:
            raise DataError("sampler.balanced is for classes, not for regression" + zh("balanced_exclusive"))
        return super().balanced_by()

    def class_counts(self) -> np.ndarray:
        """Texts per class, int64 [C]; of a regression all of them, [1]."""
        if self.regression:
            return np.array([len(self)], np.int64)
        return super().class_counts()

    def prepare(self, *, training: bool) -> None:
        """As of `Dataset`."""
        if training and self.labels is None:
            raise DataError(
                f"{self.path(0)} and the other texts have no labels to train on" + zh("texts_without_labels")
            )

    def identity(self, *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """As of `Dataset`: places, labels, sizes and contents of all texts, and the tokenizer."""
        labels = np.zeros(len(self), np.int64) if self.labels is None else self.labels
        if labels.dtype == np.float32:
            labels = labels.view(np.int32)
        sizes = np.zeros(len(self), np.int64)
        contents = np.zeros(len(self), np.uint64)
        for index in range(len(self)):
            parts = [table[index].encode() for table in self._texts]
            sizes[index] = sum(map(len, parts))
            contents[index] = digest(len(parts[0]), *parts)
        kept = keep(self.paths, labels, None, sizes, contents)
        return {**kept, "tokenizer": self.tokenizer.digest()}

    def differences(self, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> list[str]:
        """As of `Dataset`: texts added, removed, changed and labelled anew, and another tokenizer."""
        lines = differences(self.noun, before, now)
        if not np.array_equal(before.get("tokenizer", []), now["tokenizer"]):
            lines.append("another tokenizer: its files, lower_case or max_length")
        return lines


@DATASETS.register()
class TextFolder(LabelledTexts):
    """A folder with one folder of text files per class: `dataroot/<class>/**/*.txt`, a text each.

    Classes are numbered in natural order of their folders' names. Other arguments are those of
    `LabelledTexts`.

    Args:
        dataroot: The folder that holds the class folders.
        part: As for `ImageFolder`.
        val_share: Fraction of each class that is for "val".
        encoding: Of the files.
    """

    folder_per_class = True

    def __init__(
        self,
        *,
        dataroot: str,
        tokenizer: TokenizerSection,
        max_length: Count = 128,
        pad_to: Count | None = None,
        part: Literal["all", "train", "val"] = "all",
        val_share: Annotated[float, Range(above=0, below=1)] = VAL_SHARE,
        encoding: TextEncoding = "utf-8",
    ):
        root = os.path.expanduser(dataroot)
        scan = scan_folder(root, (".txt",), noun=self.noun)
        paths, labels = scan.part_of(part, val_share)
        super().__init__(
            root=root,
            paths=StringTable(paths),
            texts=_read_files([os.path.join(root, path) for path in paths], encoding),
            labels=labels,
            class_names=scan.class_names,
            tokenizer=tokenizer,
            max_length=max_length,
            pad_to=pad_to,
        )


def _read_files(paths: Sequence[str], encoding: TextEncoding) -> list[str]:
    texts = []
    faults: list[str] = []
    with progress_bar(paths, desc="reading texts", unit="text", shown=len(paths) > _MANY) as bar:
        for path in bar:
            try:
                text = decode(path, read_bytes(path), encoding)
            except DataError as error:
                faults += error.faults
                continue
            fault = text_fault(text)
            if fault:
                faults.append(f"{path}: {fault}")
            texts.append(text)
    stop_at(faults, "files")
    return texts
