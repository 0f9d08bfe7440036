"""Datasets of texts: GLUE's files as they are published, tables, folders, and faults in them."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl_sot.config import ConfigError
from passl_sot.data import DataError, build_dataloader, build_dataset, check_texts
from passl_sot.data.datasets.tables import Layout, form_of, read_rows
from passl_sot.data.datasets.text_tables import GLUE
from tests.data.text_files import write_bpe, write_vocab

NAMES = ["the", "cat", "sat", "on", "mat", "dog", "ran", "to", "river"]


@pytest.fixture
def write(tmp_path):
    def put(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    caplog.set_level(logging.INFO, logger="passl_sot.data")
    return caplog


@pytest.fixture
def tokens(tmp_path):
    return write_vocab(tmp_path / "bert")


@pytest.fixture
def glue(tmp_path, tokens):
    def build(task: str, split: str, **more):
        node = {"name": "GLUE", "task": task, "dataroot": str(tmp_path), "split": split, "tokenizer": tokens}
        return build_dataset({**node, **more})

    return build


@pytest.fixture
def table(tokens):
    def build(file: Path, **more):
        return build_dataset({"name": "TextTable", "file": str(file), "tokenizer": tokens, **more})

    return build


def contents(dataset) -> list:
    labels = dataset.labels
    return [(dataset.texts(i), None if labels is None else labels[i].item()) for i in range(len(dataset))]


def test_cola_has_no_line_of_names_but_in_its_test_file(glue, write):
    write("CoLA/train.tsv", 'gj04\t1\t\tThe "cat sat.\r\ngj04\t0\t*\tCat the sat.\n')
    write("CoLA/test.tsv", "index\tsentence\n0\tThe dog ran.\n")
    train = glue("CoLA", "train")
    assert contents(train) == [('The "cat sat.', 1), ("Cat the sat.", 0)]
    assert train.class_names == ["0", "1"] and train.describe(1).endswith("CoLA/train.tsv:2")
    test = glue("CoLA", "test")
    assert contents(test) == [("The dog ran.", None)] and "label" not in test.collate([test[0]])
    test.use_class_names(["0", "1"])
    with pytest.raises(DataError, match=r"test.tsv:2 and the other texts have no labels to train on"):
        test.prepare(training=True)


def test_mnli_has_two_numbers_of_columns_and_two_of_each_set(glue, write):
    names = ["index", "promptID", "pairID", "genre", "s1b", "s2b", "s1p", "s2p"]
    names += ["sentence1", "sentence2", "label1"]
    before = "\t".join(map(str, range(8)))
    train = "\t".join([*names, "gold_label"])
    write("MNLI/train.tsv", f"{train}\r\n{before}\tthe cat\tthe dog\tneutral\tneutral\r\n")
    dev = "\t".join([*names, "label2", "label3", "label4", "label5", "gold_label"])
    for kind, label in (("matched", "entailment"), ("mismatched", "contradiction")):
        rest = "\t".join(["neutral"] * 5)
        write(f"MNLI/dev_{kind}.tsv", f"{dev}\n{before}\tthe {kind}\tthe dog\t{rest}\t{label}\n")
    assert contents(glue("MNLI", "train")) == [(("the cat", "the dog"), 2)]
    assert contents(glue("MNLI", "dev")) == [(("the matched", "the dog"), 1)]
    assert contents(glue("MNLI", "dev_mismatched")) == [(("the mismatched", "the dog"), 0)]
    batch = glue("MNLI", "dev").collate([glue("MNLI", "dev")[0]])
    assert {str(array.dtype) for array in batch.values()} == {"int64"}
    assert batch["token_type_ids"].max() == 1
    with pytest.raises(DataError, match=r"there is no .*MNLI/test_matched.tsv"):
        glue("MNLI", "test")
    with pytest.raises(ConfigError, match=r"split: dev_mismatched is one of MNLI"):
        glue("RTE", "dev_mismatched")


@pytest.mark.parametrize(
    ("task", "names", "line", "expected"),
    [
        ("RTE", "index sentence1 sentence2 label", "0 a b not_entailment", (("a", "b"), 1)),
        ("QNLI", "index question sentence label", "0 a b entailment", (("a", "b"), 0)),
        ("WNLI", "index sentence1 sentence2 label", "0 a b 1", (("a", "b"), 1)),
        ("SST-2", "sentence label", "a 0", ("a", 0)),
        ("MRPC", "Quality #1_ID #2_ID #1_String #2_String", "1 5 6 a b", (("a", "b"), 1)),
        ("STS-B", "index genre sentence1 sentence2 score", "0 x a b 3.25", (("a", "b"), 3.25)),
        ("QQP", "id qid1 qid2 question1 question2 is_duplicate", "0 1 2 a b 0\n5 6", (("a", "b"), 0)),
    ],
)
def test_other_tasks_of_glue(glue, write, task, names, line, expected, log):
    header = names.replace(" ", "\t").replace("_ID", " ID").replace("_String", " String")
    # The folder of a task will do as well as the one above.
    write("dev.tsv", f"\ufeff{header}\n" + line.replace(" ", "\t") + "\n")
    dataset = glue(task, "dev")
    assert contents(dataset) == [expected]
    assert ("1 lines of" in log.text) == (task == "QQP")
    assert dataset.labels.dtype == (np.float32 if task == "STS-B" else np.int64)
    assert dataset.regression == (task == "STS-B") and dataset.class_counts().sum() == 1


def test_tables_in_three_forms_say_the_same(table, write):
    rows = [("the cat", "a, b", "x"), ('say "dog"', "line\u2028end", "y"), ("猫", "c", "10")]
    csv = 'id,first,second,kind\r\n1,the cat,"a, b",x\r\n2,"say ""dog""",line\u2028end,y\r\n3,猫,c,10\r\n'
    tsv = "first\tsecond\tkind\n" + "".join("\t".join(row) + "\n\n" for row in rows)
    jsonl = "".join(
        json.dumps(dict(zip(("first", "second", "kind"), row, strict=True))) + "\n" for row in rows
    )
    columns = {"text": "first", "second": "second", "label": "kind"}
    expected = [(row[:2], label) for row, label in zip(rows, (1, 2, 0), strict=True)]
    for name, text in (("a.csv", csv), ("a.tsv", tsv), ("a.jsonl", jsonl)):
        dataset = table(write(name, text), **columns)
        assert contents(dataset) == expected, name
        assert dataset.class_names == ["10", "x", "y"]
    assert contents(
        table(write("b.data", csv.encode("gb18030")), format="csv", encoding="gb18030", **columns)
    )
    named = table(write("a.csv", csv), class_names=["y", "x", "10"], **columns)
    assert named.labels.tolist() == [1, 0, 2]
    names = write("names.txt", "y\nx\n10\nunused\n")
    named = table(write("a.csv", csv), class_names=str(names), **columns)
    assert named.labels.tolist() == [1, 0, 2] and named.class_names[3] == "unused"
    quoted = table(write("q.tsv", 'text\tlabel\n"two\nlines"\ta\nx\tb\n'), quoting=True)
    assert [quoted.texts(0), quoted.describe(1)[-7:]] == ["two\nlines", "q.tsv:4"]


_CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
_WORDS = _CELL.filter(lambda text: text.strip())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_WORDS, _CELL, _WORDS.map(str.strip)), min_size=1, max_size=5), st.booleans())
def test_whatever_is_written_is_read(rows, tabs):
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "a.tsv" if tabs else "a.csv")
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, "excel-tab" if tabs else "excel").writerows([("text", "b", "label"), *rows])
        objects = Path(folder, "a.jsonl")
        lines = [json.dumps(dict(zip(("text", "b", "label"), row, strict=True))) for row in rows]
        objects.write_text("\n".join(lines), "utf-8")
        for path in (table, objects):
            layout = Layout(
                form=form_of(str(path), None), text="text", second="b", label="label", quoting=True
            )
            assert [tuple(row) for row in read_rows(str(path), layout).rows] == rows


def test_a_part_of_a_table(table, write):
    lines = [f"{a} {b} {i},{i % 3}" for a in NAMES for b in NAMES for i in range(3)]
    texts = []
    for extra in ([], ["again the cat,0", lines[5], lines[5]]):
        file = write("a.csv", "\n".join(["text,label", *extra, *lines]))
        parts = [table(file, part=part, val_share=0.25) for part in ("train", "val")]
        texts.append([{part.texts(i) for i in range(len(part))} for part in parts])
        assert not texts[-1][0] & texts[-1][1]
        assert sum(map(len, parts)) == len(extra) + len(lines)
        assert abs(parts[1].class_counts() - 20).max() <= 2
    assert len(texts[0][1] - texts[1][1]) <= 1  # others stay where they were, wherever lines are added
    for more in ({"regression": True}, {"label": None}):
        val = table(file, part="val", **more)
        assert len(val) == pytest.approx(len(lines) / 5, abs=2)
    with pytest.raises(DataError, match=r"class 'b' holds 1 item\(s\)"):
        table(write("b.csv", "text,label\na,a\nb,a\nc,b\n"), part="val")


def test_numbers_as_labels(table, write):
    measured = table(
        write("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": -0.5}\n'), regression=True
    )
    assert measured.labels.tolist() == [1.0, -0.5] and measured.class_names == ["label"]
    assert measured.collate([measured[1]])["label"].dtype == np.float32
    with pytest.raises(DataError, match=r"balanced is for classes"):
        measured.balanced_by()
    true = table(write("b.jsonl", '{"text": "a", "label": true}\n{"text": "b", "label": 10}\n'))
    assert true.class_names == ["10", "true"]
    with pytest.raises(DataError, match=r"a.csv:3: label 'much' is no number"):
        table(write("a.csv", "text,label\na,1e3\nb,much\n"), regression=True)


_ONE = "text,label\na,x\n"
_JSON = """{"text": "a", "label": "x"}
{"text": 1
[]
{"label": "x"}
{"text": "\\ud800", "label": "x"}
"""
_ROWS = "text,label\na,x\nb\nc,y,z\nd,x\n,x\ne,\n"
_OF_ROWS = (
    r"(?s)4 faults.*a.csv:3: 1 columns, and the first line has 2.*a.csv:4: 3 columns.*a.csv:6: the text is "
    r"empty.*a.csv:7: no label"
)
_OF_JSON = r"(?s)a.jsonl:2: no JSON.*:3: no JSON object.*:4: no text under 'text'.*:5: holds half"


@pytest.mark.parametrize(
    ("name", "text", "options", "complaint"),
    [
        ("a.csv", _ROWS, {}, _OF_ROWS),
        ("a.jsonl", _JSON, {}, _OF_JSON),
        ("a.csv", "text,label\na\0,x\n", {}, r"a.csv:2: a zero byte"),
        ("a.csv", "Text,label\na,x\n", {}, r"a.csv:1: no column 'text'; did you mean 'Text'"),
        ("a.csv", "text,text,label\na,b,x\n", {}, r"a.csv:1: several columns 'text'"),
        ("a.csv", 'text,label\n"a,x\nb,x\n', {}, r"a.csv:2: quotes that don't fit"),
        ("a.csv", _ONE, {"class_names": ["y", "xx"]}, r"a.csv:2: label 'x' is not among the 2 known"),
        ("a.csv", _ONE.encode() + b"\xff,x\n", {}, r"a.csv:3: not UTF-8; save the file as UTF-8 /"),
        ("a.csv", "text,label\n词典,x\n".encode("gb18030"), {}, r":2: not UTF-8; .* write encoding: gb18030"),
        ("a.csv", _ONE.encode("utf-16"), {}, r"a.csv:1: not UTF-8; save the file as UTF-8 /"),
        ("a.csv", "text,label\n", {}, r"a.csv holds no texts"),
        ("a.csv", "", {}, r"a.csv holds no texts"),
        ("a.xls", "", {}, r"a.xls ends in none of .csv"),
        ("a.csv", "text,label\n" + "b\n" * 13, {}, r"(?s)11 faults.*and 3 more lines of"),
    ],
)
def test_faulty_tables(table, write, name, text, options, complaint):
    with pytest.raises(DataError, match=complaint):
        table(write(name, text), **options)


def test_settings_that_exclude_each_other(table, write):
    file = write("a.csv", "text,label\na,1\n")
    for options, complaint in (
        ({"regression": True, "class_names": ["1"]}, "exclude each other"),
        ({"class_names": ["1", "1"]}, "a name more than once"),
        ({"pad_to": 64}, "pad_to is 64, fewer tokens than max_length, 128"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            table(file, **options)
    with pytest.raises(DataError, match=r"b.csv can't be read \(No such file"):
        table(file.with_name("b.csv"))


def test_a_folder_of_texts(write, tokens, tmp_path):
    for name in ("train/10/a.txt", "train/9/b.txt", "train/9/in/c.TXT", "train/9/d.md", "train/10/e.txt"):
        write(name, f"\ufeffthe cat {name}\r\n")
    node = {"name": "TextFolder", "dataroot": str(tmp_path / "train"), "tokenizer": tokens}
    dataset = build_dataset(node)
    assert dataset.class_names == ["9", "10"] and dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.texts(0) == "the cat train/9/b.txt\r\n"
    parts = [build_dataset({**node, "part": part, "val_share": 0.5}) for part in ("train", "val")]
    paths = [{part.path(i) for i in range(len(part))} for part in parts]
    assert list(map(len, paths)) == [2, 2] and not paths[0] & paths[1]
    write("train/9/f.txt", b"\xff")
    write("train/10/g.txt", " \n")
    with pytest.raises(DataError, match=r"(?s)f.txt:1: not UTF-8.*g.txt: the text is empty"):
        build_dataset(node)
    with pytest.raises(DataError, match=r"(?s)holds 1 texts \(such as f.txt\).*TextTable.*<class>/\*.txt"):
        write("flat/f.txt", "a")
        build_dataset({**node, "dataroot": str(tmp_path / "flat")})


def test_batches(table, write, log, tokens):
    file = write("a.csv", "text,label\n" + "".join(f"{' '.join(NAMES[:n])},{n % 2}\n" for n in range(1, 10)))
    dataset = table(file, max_length=9)
    assert dataset.num_cut == (dataset.lengths == 9).sum() - 1 == 2
    assert "2 of 9 texts (" in log.text and "max_length, 9 tokens: 3 tokens were cut off" in log.text
    batch = dataset.collate([dataset[i] for i in (8, 0)])
    assert batch["input_ids"].shape == (2, 9)
    assert batch["attention_mask"].sum(axis=1).tolist() == dataset.lengths[[8, 0]].tolist()
    assert batch["label"].tolist() == [1, 1] and batch["index"].tolist() == [8, 0]
    assert dataset.collate([dataset[0]])["input_ids"].shape == (1, 8)
    fixed = table(file, pad_to=200)
    assert fixed.collate([fixed[0]])["input_ids"].shape == (1, 200)
    # Workers read the same, through memory that is large enough for a batch.
    section = {"sampler": {"batch_size": 4}, "loader": {"num_workers": 1}}
    section["dataset"] = {"name": "TextTable", "file": str(file), "tokenizer": tokens}
    loader = build_dataloader(section, mode="val", seed=0, dataset=dataset)
    batches = list(loader)
    assert [b["index"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert np.array_equal(batches[2]["input_ids"].numpy()[0], dataset[8]["input_ids"])
    size = sum(array.nbytes for array in dataset.collate([dataset[i] for i in (5, 6, 7, 8)]).values())
    assert size <= dataset.slot_bytes(4) < 3 * size


def test_identity(table, write):
    lines = [f"{a} {b},{a}" for a in NAMES for b in NAMES]
    first = table(write("a.csv", "\n".join(["text,label", *lines])))
    before = first.identity()
    moved = table(write("elsewhere/a.csv", "\n".join(["text,label", *lines])))
    assert moved.differences(before, moved.identity()) == []
    lines[3] = "the in,cat"  # as long as before
    lines[4] = "other,the"
    other = table(write("a.csv", "\n".join(["text,label", *lines[:-1]])), max_length=100)
    assert other.differences(before, other.identity()) == [
        "1 text removed: a.csv:82",
        "2 texts changed: a.csv:5, a.csv:6",
        "1 text with another label: a.csv:5",
        "another tokenizer: its files, lower_case or max_length",
    ]


def test_preflight(table, write, tmp_path):
    def split(name: str, text: str, **more):
        return table(write(name, "text,label\n" + text), **more)

    train = split("train.csv", "the cat,a\nthe dog,b\nthe mat,b\n")
    assert check_texts(train, split("val.csv", "on mat,a\nto river,b\n"), 2) == []
    (warning,) = check_texts(train, split("val.csv", "the dog,a\nto river,b\n"))
    assert "1 texts of train are in val too, such as" in warning and "train.csv:3" in warning
    (warning,) = check_texts(train, split("val.csv", "ЖЖ Ж,a\nto river,b\n"))
    assert warning.startswith("val: 25 % of the tokens aren't in the vocabulary")
    gpt = write_bpe(tmp_path / "gpt", "gpt")
    for val, classes, complaint in (
        (split("val.csv", "on mat,a\nto river,c\n"), 2, r"class 'c' is in val .*train"),
        (split("val.csv", "on mat,a\nto river,b\n"), 3, r"head has 3 classes, the data .* have 2"),
        (split("val.csv", "on mat,a\n", label=None), 2, r"val: .*val.csv:2 and the others have no labels"),
        (
            split("val.csv", "on mat,a\nriver,b\n", tokenizer=gpt),
            2,
            r"have different tokenizers or max_length",
        ),
        (split("val.csv", "on mat,1\n", regression=True), 2, r"regression is set for one of train and val"),
        (split("val.csv", "on mat,a\nriver,b\n", second="label"), 2, r"one of train and val has two texts"),
    ):
        with pytest.raises(DataError, match=complaint):
            check_texts(train, val, classes)
    cut = [split(f"{name}.csv", f"{name * 20},a\n{name * 30},b\n", max_length=5) for name in ("ab", "ba")]
    with pytest.raises(
        DataError, match=r"(?s)train: all texts are longer than max_length, 5 tokens.*val: all"
    ):
        check_texts(*cut)


def test_a_task_of_glue_in_a_config_is_checked():
    with pytest.raises(ConfigError, match=r"(?s)task.*SST"):
        build_dataset({"name": "GLUE", "task": "SST", "dataroot": "x", "split": "dev", "tokenizer": {}})
    assert GLUE.noun == "text"
