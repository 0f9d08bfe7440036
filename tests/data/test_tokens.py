"""Tokenizers: the numbers of the authors' code, files of every kind, and faults in them."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl_sot.data import DataError
from passl_sot.data.token_files import TokenizerSection
from passl_sot.data.tokens import Tokenizer, _shares, make_tokenizer, pad
from passl_sot.utils.require import MissingExtraError
from tests.data.text_files import FIXTURE, write_bpe, write_vocab

ITEMS = [*FIXTURE["texts"], *map(tuple, FIXTURE["pairs"])]


def opened(section: dict, max_length: int = FIXTURE["max_length"], **more) -> Tokenizer:
    return Tokenizer.from_files(TokenizerSection(**{**section, **more}), max_length)


def is_like(tokenizer: Tokenizer, name: str) -> bool:
    found = [(e.ids.tolist(), int(e.types.sum()), e.cut) for e in tokenizer.encode(ITEMS)]
    return found == [tuple(row) for row in FIXTURE["ids"][name]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.mark.parametrize(
    ("name", "lower_case"), [("wordpiece", False), ("wordpiece_lower", True), ("bpe", False), ("gpt", False)]
)
def test_numbers_are_those_of_the_authors_code(folder, name, lower_case):
    if name.startswith("wordpiece"):
        section = write_vocab(folder / "bert")
    else:
        section = write_bpe(folder / name, "gpt" if name == "gpt" else "roberta")
    tokenizer = opened(section, lower_case=lower_case)
    assert is_like(tokenizer, name)
    assert tokenizer.pad_id == {"bpe": 1}.get(name, 0)
    # All of it is in a text, which is a tokenizer.json, and in what workers are sent.
    again = Tokenizer.from_text(tokenizer.to_text())
    kept = make_tokenizer(TokenizerSection(text=tokenizer.to_text()), 512)
    assert is_like(kept, name) and kept.max_length == FIXTURE["max_length"]
    assert is_like(again, name) and (again.digest() == tokenizer.digest()).all()
    assert is_like(pickle.loads(pickle.dumps(tokenizer)), name)
    file = folder / f"{name}.json"
    file.write_text(tokenizer.to_text(), "utf-8")
    assert is_like(opened({"format": "json", "path": str(file)}), name)


def test_names_of_openai(folder):
    section = write_bpe(folder / "openai", "gpt", ("encoder_bpe_40000.json", "vocab_40000.bpe"))
    assert is_like(opened(section), "gpt")
    file = folder / "openai" / "encoder_bpe_40000.json"
    tokenizer = opened({"format": "gpt", "path": str(file)})
    size = len(FIXTURE["files"]["gpt"]["tokens"])
    assert tokenizer.vocab_size == size + 3
    (encoding,) = tokenizer.encode([("the dog", "")])
    assert encoding.ids[[0, -2, -1]].tolist() == [size, size + 1, size + 2]


def test_fairseq_renumbers(folder):
    """encoder.json numbers anew, and dict.txt gives those numbers in RoBERTa's order."""
    write_bpe(folder / "roberta", "roberta")
    tokens = FIXTURE["files"]["roberta"]["tokens"][4:-1]  # without special ones
    numbers = np.random.default_rng(0).permutation(len(tokens)).tolist()
    place = folder / "fairseq"
    write_bpe(place, "roberta", ("unused.json", "vocab.bpe"))
    (place / "encoder.json").write_text(json.dumps(dict(zip(tokens, numbers, strict=True))))
    (place / "dict.txt").write_text("".join(f"{number} 12\n" for number in numbers))
    section = {"format": "fairseq", "path": str(place)}
    assert is_like(opened(section), "bpe")
    with (place / "dict.txt").open("a") as file:
        file.write("madeupword0000 0\n")
    assert opened(section).vocab_size == opened(write_bpe(folder / "roberta", "roberta")).vocab_size + 1
    (place / "dict.txt").write_text("".join(f"{number} 12\n" for number in numbers[1:]))
    with pytest.raises(DataError, match=r"dict.txt leaves out 1 tokens of .*encoder.json, such as '!'"):
        opened(section)
    (place / "dict.txt").write_text("5 1\nfive\n")
    with pytest.raises(DataError, match=r"dict.txt:2: 'five' isn't 'token count'"):
        opened(section)


def test_lower_case_of_every_format(folder):
    sections = [write_vocab(folder / "bert"), write_bpe(folder / "bpe", "roberta")]
    for section in sections:
        file = folder / "cased.json"
        file.write_text(opened(section).to_text())
        for found in (section, {"format": "json", "path": str(file)}):
            lower, plain = opened(found, lower_case=True), opened(found)
            assert np.array_equal(lower.encode(["The DOG"])[0].ids, plain.encode(["the dog"])[0].ids)
            assert not np.array_equal(plain.encode(["The DOG"])[0].ids, plain.encode(["the dog"])[0].ids)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 24))
def test_the_longer_of_two_is_cut_one_by_one(first, second, room):
    kept = [first, second]
    while sum(kept) > room:
        kept[0 if kept[0] > kept[1] else 1] -= 1
    if room >= 1:
        assert _shares([first, second], room) == kept
    assert _shares([first], room) == [min(first, room)]


def test_faults_are_named(folder, tmp_path):
    section = write_vocab(tmp_path)
    vocab = tmp_path / "vocab.txt"
    whole = vocab.read_text("utf-8")

    def refused(match: str, section: dict = section, **more) -> None:
        with pytest.raises(DataError, match=match):
            opened(section, **more)

    refused("max_length is 4: two texts need 5 tokens", max_length=4)
    vocab.write_bytes(whole.replace("\n", "\r\n").encode("utf-8-sig"))
    assert is_like(opened(section), "wordpiece")
    assert is_like(opened({**section, "path": str(vocab)}), "wordpiece")
    vocab.write_text(whole.replace("[CLS]", "[cls]"), "utf-8")
    refused(r"vocab.txt holds 242 tokens, but not \[CLS\]")
    vocab.write_text(whole.replace("[MASK]", "a b\n[MASK]"), "utf-8")
    refused(r"vocab.txt:5: 'a b' is no token")
    vocab.write_bytes("[PAD]\n词典".encode("gb18030"))
    refused(r"vocab.txt:2: not UTF-8")
    vocab.unlink()
    refused(r"vocab.txt doesn't exist; tokenizer.format wordpiece takes vocab.txt")
    refused("tokenizer needs a format and a path", path=None)
    bpe = write_bpe(tmp_path, "roberta")
    refused(r"holds 200 tokens, but not <s>, <pad>", {**write_bpe(tmp_path / "g", "gpt"), "format": "bpe"})
    merges = tmp_path / "merges.txt"
    merges.write_text("#version: 0.2\nt h\nabc\n")
    refused(r"merges.txt:3: 'abc' isn't a merge", bpe)
    merges.write_text("#version: 0.2\nq q\n")
    refused(r"merges.txt:2: 'q q' merges or makes a token that .*vocab.json doesn't hold", bpe)
    (tmp_path / "vocab.json").write_text('{"a": 0,\n"b" 1}')
    refused(r"vocab.json:2: no JSON", bpe)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 2}')
    refused(r"vocab.json doesn't number its 2 tokens from 0 to 1", bpe)
    (tmp_path / "vocab.json").write_text('{"a": "x"}')
    refused(r"vocab.json is no vocabulary", bpe)
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    refused("is no tokenizer.json", {"format": "json", "path": str(file)})
    content = json.loads(opened(write_vocab(tmp_path)).to_text())
    file.write_text(json.dumps({**content, "post_processor": None}))
    refused("adds no special tokens", {"format": "json", "path": str(file)})
    for kept in ("{}", "[", json.dumps({**content, "model": {}})):
        with pytest.raises(DataError, match="no tokenizer that was kept"):
            Tokenizer.from_text(kept)
    with pytest.raises(DataError, match="text 1 holds half a character"):
        opened(write_vocab(tmp_path)).encode(["a", ("b", "\ud800")])


def test_padding():
    samples = [{"input_ids": np.arange(5, 5 + n), "token_type_ids": np.ones(n, np.int8)} for n in (3, 9, 1)]
    batch = pad(samples, 7)
    assert {name: (a.shape, str(a.dtype)) for name, a in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), ((3, 16), "int64")
    )
    assert batch["input_ids"][0].tolist() == [5, 6, 7] + 13 * [7]
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 9, 1]
    assert np.array_equal(batch["token_type_ids"], batch["attention_mask"])
    assert pad(samples, 7, longest=10)["input_ids"].shape == (3, 10)
    assert pad(samples, 7, pad_to=12)["input_ids"].shape == (3, 12)


def test_a_missing_package_is_one_error_that_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs tokenizers: run `pip install 'passl_sot\[text\]'`"):
        opened(write_vocab(tmp_path))
