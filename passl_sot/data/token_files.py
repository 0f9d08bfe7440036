"""Tokenizers from the files that models are published with.

What is built is a tokenizer of Hugging Face's `tokenizers`, whichever files it came from.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from passl_sot.config import zh
from passl_sot.data.errors import DataError, stop_at
from passl_sot.data.text_files import not_in_encoding, read_bytes

# Names of the files in a folder; where there are several, the first that is there.
_FILES: dict[str, list[tuple[str, ...]]] = {
    "wordpiece": [("vocab.txt",)],
    "bpe": [("vocab.json", "merges.txt")],
    "gpt": [("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe")],
    "json": [("tokenizer.json",)],
    "fairseq": [("encoder.json", "vocab.bpe", "dict.txt")],
}
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")
# Behind GPT's vocabulary, in this order.
_GPT = ("_start_", "_delimiter_", "_classify_")
# Longer words are unknown to BERT, as in the authors' code.
_LONGEST_WORD = 100


@dataclass(kw_only=True)
class TokenizerSection:
    """`tokenizer:`, how texts become numbers of tokens. Needs the extra `[text]`.

    Attributes:
        format: Of the files. "wordpiece": vocab.txt (BERT, SpanBERT). "bpe": vocab.json and merges.txt of
            bytes (RoBERTa). "fairseq": encoder.json, vocab.bpe and dict.txt, the same as fairseq has it.
            "gpt": vocab.json and merges.txt, or encoder_bpe_40000.json and vocab_40000.bpe (GPT-1).
            "json": tokenizer.json, which any of them may have been converted to.
        path: The folder that holds them, or the first of them; the others then lie beside it.
        text: What `Tokenizer.to_text` gave, such as a checkpoint's, in place of files; it has a length of its
            own too.
        lower_case: Turn texts to lower case first; with "wordpiece" accents are taken off too. It is for
            uncased vocabularies, "gpt" always does it, and "json" files that do it need no saying.
            The published numbers of BERT with a second-order head come from commands that turn it on
            with a CASED vocabulary, which then knows few of the names in a text: true repeats them.
    """

    format: Literal["wordpiece", "bpe", "gpt", "json", "fairseq"] | None = None
    path: str | None = None
    lower_case: bool = False
    text: str | None = None


def build_tokenizer(library: ModuleType, section: TokenizerSection) -> tuple[Any, str]:
    """The tokenizer of some files, without a limit of length, and the token it pads with ("" for id 0).

    Args:
        library: The package `tokenizers`.

    Raises:
        DataError: A file is missing, isn't of its kind, or lacks special tokens; names file and line.
    """
    if section.format is None or section.path is None:
        raise DataError(
            "dataset.tokenizer needs a format and a path, the folder with its files: they come with the "
            "weights of the model, as by --pretrained bert_base" + zh("tokenizer_file_missing")
        )
    files = _find(section.format, os.path.expanduser(section.path))
    return _BUILDERS[section.format](library, files, section.lower_case)


def _find(kind: str, path: str) -> list[str]:
    choices = _FILES[kind]
    if not os.path.isdir(path):
        folder, name = os.path.split(path)
        # A single file may have any name, where it needs no others beside it.
        choices = [names for names in choices if name == names[0]] or choices[:1]
        names = (name, *choices[0][1:])
        path = folder
    else:
        there = [names for names in choices if os.path.isfile(os.path.join(path, names[0]))]
        names = (there or choices)[0]
    files = [os.path.join(path, name) for name in names]
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        wanted = " or ".join(" + ".join(names) for names in _FILES[kind])
        raise DataError(
            f"{missing[0]} doesn't exist; tokenizer.format {kind} takes {wanted}, in the folder "
            "tokenizer.path" + zh("tokenizer_file_missing")
        )
    return files


def _wordpiece(library: ModuleType, files: Sequence[str], lower_case: bool) -> tuple[Any, str]:
    (file,) = files
    vocab: dict[str, int] = {}
    faults = []
    for number, line in _lines(file):
        if " " in line or "\t" in line:
            faults.append(f"{file}:{number}: {line!r} is no token, as a line of vocab.txt is")
        vocab[line] = number - 1
    stop_at(faults, f"lines of {file}")
    _require(file, vocab, _BERT)
    model = library.models.WordPiece(
        vocab, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD, continuing_subword_prefix="##"
    )
    tokenizer = library.Tokenizer(model)
    # Accents go where letters become lower, as in the authors' code.
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    _add_special(library, tokenizer, (*_BERT, "[MASK]"))
    _template(library, tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer, "[PAD]"


def _bpe(library: ModuleType, files: Sequence[str], lower_case: bool) -> tuple[Any, str]:
    vocab_file, merges_file = files
    vocab = _read_vocab(vocab_file)
    _require(vocab_file, vocab, _ROBERTA)
    return _byte_level(library, vocab, _read_merges(merges_file, vocab, vocab_file), lower_case)


def _fairseq(library: ModuleType, files: Sequence[str], lower_case: bool) -> tuple[Any, str]:
    vocab_file, merges_file, dict_file = files
    own = _read_vocab(vocab_file)
    merges = _read_merges(merges_file, own, vocab_file)
    names = {str(number): token for token, number in own.items()}
    vocab = {token: number for number, token in enumerate(_ROBERTA)}
    faults = []
    for number, line in _lines(dict_file):
        words = line.split(" ")
        if len(words) != 2 or not words[1].isdecimal():
            faults.append(f"{dict_file}:{number}: {line!r} isn't 'token count', as a line of dict.txt is")
        # Numbers of encoder.json are renumbered; placeholders such as madeupword0000 keep their names.
        vocab[names.get(words[0], words[0])] = len(vocab)
    stop_at(faults, f"lines of {dict_file}")
    lost = [token for token in own if token not in vocab]
    if lost:
        raise DataError(
            f"{dict_file} leaves out {len(lost):,} tokens of {vocab_file}, such as {lost[0]!r}: the two "
            "belong to different models" + zh("tokenizer_files_differ")
        )
    vocab.setdefault("<mask>", len(vocab))
    return _byte_level(library, vocab, merges, lower_case)


def _byte_level(
    library: ModuleType, vocab: dict[str, int], merges: list[tuple[str, str]], lower_case: bool
) -> tuple[Any, str]:
    tokenizer = library.Tokenizer(library.models.BPE(vocab, merges))
    if lower_case:
        tokenizer.normalizer = library.normalizers.Lowercase()
    # The first word of a text has no blank before it, so it is another token than inside of a text.
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    _add_special(library, tokenizer, _ROBERTA)
    if "<mask>" in vocab:
        tokenizer.add_special_tokens([library.AddedToken("<mask>", lstrip=True, special=True)])
    _template(library, tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return tokenizer, "<pad>"


def _gpt(library: ModuleType, files: Sequence[str], lower_case: bool) -> tuple[Any, str]:
    vocab_file, merges_file = files
    vocab = _read_vocab(vocab_file)
    _require(vocab_file, vocab, ("<unk>",))
    merges = _read_merges(merges_file, vocab, vocab_file)
    model = library.models.BPE(vocab, merges, unk_token="<unk>", end_of_word_suffix="</w>")
    tokenizer = library.Tokenizer(model)
    # The authors split by spaCy; this is what others use where that isn't installed, and as good.
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.BPEDecoder(suffix="</w>")
    _add_special(library, tokenizer, ("<unk>",))
    tokenizer.add_special_tokens(list(_GPT))
    start, delimiter, classify = _GPT
    pair = f"{start} $A {delimiter} $B {classify}"
    _template(library, tokenizer, f"{start} $A {classify}", pair)
    return tokenizer, ""


def _json(library: ModuleType, files: Sequence[str], lower_case: bool) -> tuple[Any, str]:
    (file,) = files
    content = _read_json(file)
    if lower_case:
        found = content.get("normalizer")
        if isinstance(found, dict) and found.get("type") == "BertNormalizer":
            found["lowercase"] = True
        else:
            steps = [{"type": "Lowercase"}, *([found] if found else [])]
            content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    try:
        tokenizer = library.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the package raises nothing narrower
        raise DataError(f"{file} is no tokenizer.json ({error})" + zh("not_a_tokenizer")) from error
    if not tokenizer.num_special_tokens_to_add(is_pair=False):
        raise DataError(
            f"{file} adds no special tokens (post_processor), and a classifier needs one that stands for the "
            "whole text, such as [CLS]" + zh("special_tokens_missing")
        )
    padding = (content.get("padding") or {}).get("pad_token")
    choices = [str(padding), "[PAD]", "<pad>"]
    return tokenizer, next((token for token in choices if tokenizer.token_to_id(token) is not None), "")


_BUILDERS = {"wordpiece": _wordpiece, "bpe": _bpe, "gpt": _gpt, "json": _json, "fairseq": _fairseq}


def _add_special(library: ModuleType, tokenizer: Any, tokens: Sequence[str]) -> None:
    """Special tokens are one token each in a text too, as in other programs."""
    there = [token for token in tokens if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([library.AddedToken(token, special=True) for token in there])


def _template(library: ModuleType, tokenizer: Any, single: str, pair: str) -> None:
    words = {word.partition(":")[0] for word in pair.split() if not word.startswith("$")}
    special = [(word, tokenizer.token_to_id(word)) for word in sorted(words)]
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=special
    )


def _require(file: str, vocab: Mapping[str, int], tokens: Sequence[str]) -> None:
    missing = [token for token in tokens if token not in vocab]
    if missing:
        raise DataError(
            f"{file} holds {len(vocab):,} tokens, but not {', '.join(missing)}: it is no vocabulary of this "
            "tokenizer.format" + zh("special_tokens_missing")
        )


def _read(file: str) -> str:
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_in_encoding(file, error, ", as files of tokenizers are") from error


def _lines(file: str) -> list[tuple[int, str]]:
    """Numbered lines that aren't empty; only "\\n" ends one, as tokens may hold others."""
    lines = enumerate(_read(file).split("\n"), 1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.removesuffix("\r")]


def _read_json(file: str) -> dict[str, Any]:
    try:
        content = json.loads(_read(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: no JSON ({error.msg})" + zh("not_a_tokenizer")) from error
    except RecursionError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no JSON object, as such a file does" + zh("not_a_tokenizer"))
    return content


def _read_vocab(file: str) -> dict[str, int]:
    """A vocabulary of token: number, numbers from 0 without a gap."""
    vocab = _read_json(file)
    numbers = vocab.values()
    if not vocab or any(type(number) is not int for number in numbers):
        raise DataError(f"{file} is no vocabulary, which gives each token a number" + zh("not_a_tokenizer"))
    if sorted(numbers) != list(range(len(vocab))):
        raise DataError(
            f"{file} doesn't number its {len(vocab):,} tokens from 0 to {len(vocab) - 1:,}"
            + zh("not_a_tokenizer")
        )
    return vocab


def _read_merges(file: str, vocab: Mapping[str, int], vocab_file: str) -> list[tuple[str, str]]:
    merges = []
    faults = []
    for number, line in _lines(file):
        if number == 1 and line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            faults.append(f"{file}:{number}: {line!r} isn't a merge, two parts with a blank between them")
        elif not {left, right, left + right} <= vocab.keys():
            faults.append(
                f"{file}:{number}: {line!r} merges or makes a token that {vocab_file} doesn't hold"
                + zh("tokenizer_files_differ")
            )
        merges.append((left, right))
    stop_at(faults, f"lines of {file}")
    return merges
