"""Texts to numbers of tokens, and batches of them.

Legend: B texts, l tokens of one text, L tokens of a batch's longest.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from passl_sot.config import zh
from passl_sot.data.errors import DataError
from passl_sot.data.token_files import TokenizerSection, build_tokenizer
from passl_sot.utils.require import require_extra

# One text, or two that belong together.
Text = str | tuple[str, str]
# Lengths of batches are multiples of it, so that engines meet fewer of them.
_MULTIPLE = 8
_USE = "a tokenizer"


class Encoding(NamedTuple):
    """A text as numbers of tokens, special ones among them.

    Attributes:
        ids: int32 [l].
        types: int32 [l]; 0 for the first text, 1 for the second, where the model tells them apart.
        cut: Tokens that were cut off.
    """

    ids: np.ndarray
    types: np.ndarray
    cut: int


class Place(NamedTuple):
    """Where in a text a token is from.

    Attributes:
        text: 0, or 1 for the second of a pair.
        word: Number of the word there that it belongs to, as the tokenizer divides texts into words.
        begin: Its first character's number in the text.
        end: That of the character behind it.
    """

    text: int
    word: int
    begin: int
    end: int


class Tokenizer:
    """Texts to numbers of tokens in a model's form, such as [CLS] text [SEP], of at most `max_length`.

    It is all in one text, that of a `tokenizer.json` as other programs read it: with it a checkpoint can
    predict without other files. Special tokens that stand in a text are taken as such, as by other programs.
    What a text is too long by is cut off its end; of two the longer one is cut, one token after the other.

    Args:
        text: What `to_text` gave.

    Attributes:
        max_length: Tokens of a text with all special ones.
        pad_id: Number of the token that fills batches up.

    Raises:
        DataError: The text is none of a tokenizer, or `max_length` leaves no room for words.
        MissingExtraError: The extra `[text]` isn't installed.
    """

    def __init__(self, text: str):
        self._text = text
        try:
            content = json.loads(text)
            self.max_length = int(content["truncation"]["max_length"])
            self.pad_id = int(content["padding"]["pad_id"])
            self._backend = self._load()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"this is no tokenizer that was kept ({error!r})" + zh("not_a_tokenizer")
            ) from error
        needed = self._backend.num_special_tokens_to_add(is_pair=True) + 2
        if self.max_length < needed:
            raise DataError(
                f"max_length is {self.max_length}: two texts need {needed} tokens, a word each and the "
                "special ones" + zh("max_length_too_small")
            )

    @classmethod
    def from_files(cls, section: TokenizerSection, max_length: int) -> "Tokenizer":
        """From the files of a `tokenizer:` section.

        Args:
            section: The section.
            max_length: Tokens that a text may have, special ones too.

        Raises:
            DataError: A file is missing or isn't of its kind; names file and line.
            MissingExtraError: The extra `[text]` isn't installed.
        """
        backend, padding = build_tokenizer(require_extra("tokenizers", "text", _USE), section)
        # The text says all, so that whoever reads it needs no settings beside it.
        backend.enable_truncation(max_length, strategy="longest_first")
        token = padding or backend.id_to_token(0)
        backend.enable_padding(pad_id=backend.token_to_id(token), pad_token=token)
        return cls(backend.to_str())

    @classmethod
    def from_text(cls, text: str) -> "Tokenizer":
        """From a `tokenizer.json`.

        Args:
            text: What `to_text` gave.
        """
        return cls(text)

    def to_text(self) -> str:
        """All of it, as JSON: a `tokenizer.json`."""
        return self._text

    def digest(self) -> np.ndarray:
        """The same for tokenizers that do the same: uint8 [32]."""
        return np.frombuffer(hashlib.sha256(self._text.encode()).digest(), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        # Data workers get the text alone: they encode nothing, and need not load the package.
        return {**vars(self), "_backend": None}

    def _load(self) -> Any:
        library = require_extra("tokenizers", "text", _USE)
        # Otherwise it warns, and computes on one core, in every process that is started after its first use.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        try:
            backend = library.Tokenizer.from_str(self._text)
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(str(error)) from error
        backend.no_truncation()
        backend.no_padding()
        return backend

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows: numbers are below it."""
        return self._ready().get_vocab_size(with_added_tokens=True)

    @property
    def unknown_id(self) -> int:
        """Number of the token for what isn't in the vocabulary; -1 where there is none."""
        backend = self._ready()
        numbers = (backend.token_to_id(token) for token in ("[UNK]", "<unk>"))
        return next((number for number in numbers if number is not None), -1)

    @property
    def mask_id(self) -> int:
        """Number of the token that stands for a hidden word; `pad_id` where there is none."""
        backend = self._ready()
        numbers = (backend.token_to_id(token) for token in ("[MASK]", "<mask>"))
        return next((number for number in numbers if number is not None), self.pad_id)

    @property
    def added_ids(self) -> list[int]:
        """Numbers of the tokens that a model's form adds to texts, such as [CLS] and [SEP]."""
        return sorted({int(i) for encoding in self.encode(["", ("", "")]) for i in encoding.ids})

    def _ready(self) -> Any:
        if self._backend is None:
            self._backend = self._load()
        return self._backend

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Many texts or pairs at once, on all cores.

        Args:
            texts: Each a text, or a tuple of two.

        Raises:
            DataError: One isn't valid Unicode; says which.
        """
        backend = self._ready()
        try:
            whole = backend.encode_batch_fast(list(texts))
        except TypeError:
            for place, text in enumerate(texts):
                parts = text if isinstance(text, tuple) else (text,)
                if any("\ud800" <= sign <= "\udfff" for sign in "".join(parts)):
                    message = f"text {place} holds half a character (a lone surrogate)" + zh("lone_surrogate")
                    raise DataError(message) from None
            raise
        return [self._cut(text, found) for text, found in zip(texts, whole, strict=True)]

    def places(self, text: Text) -> list[Place | None]:
        """Where in a text each of its tokens is from, in the order of `encode`; None for those that it adds.

        Args:
            text: A text that `encode` takes, or a tuple of two.
        """
        parts = text if isinstance(text, tuple) else (text,)
        kept = self._kept(text, self._ready().encode(*parts))
        places: list[Place | None] = []
        for number, (of_text, word, span) in enumerate(
            zip(kept.sequence_ids, kept.word_ids, kept.offsets, strict=True)
        ):
            if of_text is None:
                places.append(None)
                continue
            # A token that belongs to no word is one by itself.
            places.append(Place(of_text, -1 - number if word is None else word, *span))
        return places

    def _cut(self, text: Text, whole: Any) -> Encoding:
        kept = self._kept(text, whole)
        cut = max(0, len(whole.ids) - self.max_length)
        return Encoding(np.array(kept.ids, np.int32), np.array(kept.type_ids, np.int32), cut)

    def _kept(self, text: Text, whole: Any) -> Any:
        """The package's encoding of a text, cut to the greatest length."""
        if len(whole.ids) <= self.max_length:
            return whole
        backend = self._ready()
        pair = isinstance(text, tuple)
        parts = [backend.encode(part, add_special_tokens=False) for part in (text if pair else [text])]
        room = self.max_length - backend.num_special_tokens_to_add(is_pair=pair)
        for part, length in zip(parts, _shares(list(map(len, parts)), room), strict=True):
            part.truncate(length)
        # The package cuts pairs too, but gives an odd token to the second text rather than to the first.
        return backend.post_process(*parts)


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """Tokens kept of one or two texts, as if the longer lost its last until all fit; of equals the second."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    first = min(first, max(room - second, (room + 1) // 2))
    return [first, min(second, room - first)]


def make_tokenizer(section: TokenizerSection, max_length: int) -> Tokenizer:
    """The tokenizer of a `tokenizer:` section, from its text or its files; see `Tokenizer.from_files`."""
    if section.text is not None:
        return Tokenizer.from_text(section.text)
    return Tokenizer.from_files(section, max_length)


def pad(
    samples: Sequence[Mapping[str, Any]],
    pad_id: int,
    *,
    pad_to: int | None = None,
    longest: int | None = None,
) -> dict[str, np.ndarray]:
    """Joins texts to a batch by padding behind them.

    Args:
        samples: With `input_ids` and `token_type_ids`, whole numbers [l] each.
        pad_id: Of `Tokenizer`.
        pad_to: L; by default the longest's tokens, rounded up to a multiple of 8.
        longest: What rounding doesn't go beyond, such as the positions that a model has.

    Returns:
        `input_ids`, `attention_mask` (1 for tokens, 0 for padding) and `token_type_ids`, int64 [B, L].
    """
    lengths = np.array([len(sample["input_ids"]) for sample in samples])
    width = padded_length(int(lengths.max()), pad_to, longest)
    mask = np.arange(width) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate([sample["input_ids"] for sample in samples])
    types = np.zeros_like(ids)
    types[mask] = np.concatenate([sample["token_type_ids"] for sample in samples])
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}


def padded_length(tokens: int, pad_to: int | None = None, longest: int | None = None) -> int:
    """L of a batch whose longest text has so many tokens; see `pad`."""
    if pad_to is None:
        pad_to = -(-tokens // _MULTIPLE) * _MULTIPLE
        if longest is not None:
            pad_to = min(pad_to, longest)
    return max(tokens, pad_to)
