"""Texts from a config to predictions, by a checkpoint alone."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from passl_sot import Predictor, cli
from passl_sot.config import ConfigError
from passl_sot.data import DataError
from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import CheckpointError, read_checkpoint, write_checkpoint

LEARNING = ("epochs=10", "model.architecture.drop_rate=0", "model.architecture.attn_drop_rate=0")


@pytest.fixture(scope="module")
def trained_texts(write_texts, tmp_path_factory) -> Path:
    """The folder of a run that has learned which word tells, whose vocabulary and training texts are gone."""
    folder = tmp_path_factory.mktemp("texts")
    trainer = Trainer(load_config(write_texts(folder), LEARNING), folder / "output" / "texts", World())
    assert trainer.fit()["raw_matthews"] == 100
    (folder / "vocab.txt").unlink()
    return folder


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


@pytest.mark.usefixtures("drawn")
def test_commands(write_texts, tmp_path, capfd):
    config = write_texts(tmp_path)
    assert cli.train(["-c", str(config), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "config and data are in order: 24 training, 9 validation sentences, 2 classes" in said
    assert "sentences/s per process" in said and "forward, one sentence" in said
    # 16-bit numbers on a machine that has them; on a CPU a line says that there are none.
    assert cli.train(["-c", str(config), "-o", "+amp={level: O1}", "parameters={layer_decay: 0.8}"]) == 0
    said = capfd.readouterr().out
    assert "8 sentences per update" in said and "finished: best Matthews correlation x 100 " in said
    assert " tokens/s, " in said and " % padding  data wait" in said
    folder = tmp_path / "output" / "texts"
    assert (folder / "confusion.png").stat().st_size > 5000
    first = read_metrics(folder / "metrics.jsonl")[0]
    # Three special tokens fewer than places, at least; all tokens are counted once.
    assert first["tokens_per_s"] > first["sentences_per_s"] * 4 and 0 < first["padding"] < 0.8
    out = tmp_path / "evaluation" / "metrics.json"
    (tmp_path / "vocab.txt").unlink()
    assert cli.evaluate(["--weights", str(folder / "best"), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    best = read_checkpoint(folder / "best.safetensors").meta["progress"]["best"]
    assert report["matthews"] == pytest.approx(best) and report["sentences"] == 9
    assert [row["name"] for row in report["per_class"]] == ["bad", "good"]
    assert lines_of(out.parent / "predictions.csv")[0] == "text,text_pair,label,class,name,probability"


def test_a_checkpoint_alone_predicts(trained_texts, capsys, monkeypatch):
    best = str(trained_texts / "output" / "texts" / "best")
    predictor = Predictor(best, batch_size=2)
    given = ["a good the", ("the a", "bad"), "the a", " ".join(["the"] * 40 + ["good"])]
    one, two, first, long = predictor(given)
    assert (one.names[0], two.text, two.text_pair) == ("good", "the a", "bad")
    assert two.probabilities != first.probabilities
    assert one.probabilities[0] > 0.6 and sum(long.probabilities) == pytest.approx(1, abs=1e-5)
    # A sentence is no pattern of files; what is none has an error, and half a character, too.
    assert predictor("is it good?")[0].names[0] == "good"
    (number, half) = predictor([3, "good \ud800"])
    assert "is no text and no pair" in number.error and "half a character" in half.error
    with pytest.raises(TypeError, match=r"an? int is no text"):
        predictor(3)
    out = trained_texts / "given.csv"
    command = ["--weights", best, "--out", str(out)]
    assert cli.predict([*command, "--text", "good", "--text", "the a", "bad"]) == 0
    said = capsys.readouterr().out
    assert "good  good  " in said and "\nthe a  " in said
    assert [line.split(",")[:2] for line in lines_of(out)[1:]] == [["good", ""], ["the a", "bad"]]


def test_predictions_as_glue_takes_them(trained_texts):
    best = trained_texts / "output" / "texts" / "best.safetensors"
    out = trained_texts / "CoLA.tsv"
    assert cli.predict(["--weights", str(best), "--out", str(out)]) == 0
    right = [line.split("\t")[0] for line in lines_of(trained_texts / "val.tsv")[1:]]
    assert lines_of(out) == ["index\tprediction", *(f"{i}\t{name}" for i, name in enumerate(right))]


def test_files_and_standard_input(trained_texts, tmp_path, monkeypatch, invoke):
    best = trained_texts / "output" / "texts" / "best"
    (tmp_path / "lines.txt").write_text("a good the\n\nthe a\tis bad\n")
    (tmp_path / "GLUE.tsv").write_text('index\tsentence1\tsentence2\n7\ta "dog\tgood\n9\tb\tbad\n')
    (tmp_path / "own.csv").write_text('first,"second"\n"good, a dog","the, cat"\n')
    (tmp_path / "same.jsonl").write_text('{"sentence": "bad", "index": 3}\n')
    out = tmp_path / "found.json"

    def predicted(*arguments) -> list[tuple]:
        done = invoke("predict", "--weights", best, *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        return [
            (row["text"], row["text_pair"], Path(row["path"]).name, row["index"])
            for row in json.loads(out.read_text())
        ]

    lines = [("a good the", "", "lines.txt", "0"), ("the a", "is bad", "lines.txt", "1")]
    assert predicted(tmp_path / "lines.txt") == lines
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "lines.txt").read_bytes())))
    assert predicted("-") == [(*row[:2], "-", *row[3:]) for row in lines]
    glue = [('a "dog', "good", "GLUE.tsv", "7"), ("b", "bad", "GLUE.tsv", "9")]
    assert predicted(tmp_path / "GLUE.tsv", tmp_path / "same.jsonl") == [
        *glue,
        ("bad", "", "same.jsonl", "3"),
    ]
    invoke("predict", "--weights", best, tmp_path / "GLUE.tsv", "--out", tmp_path / "QNLI.tsv")
    first, *rows = lines_of(tmp_path / "QNLI.tsv")
    assert first == "index\tprediction"
    assert [row.split("\t")[0] for row in rows] == ["7", "9"]
    own = [("good, a dog", "the, cat", "own.csv", "0")]
    assert predicted("--columns", "first,second", tmp_path / "own.csv") == own
    for wrong, words in (
        (
            [tmp_path / "own.csv"],
            "has no column of a usual name, such as 'text' or 'sentence', but 'first', 's",
        ),
        (
            [tmp_path / "own.csv", "--columns", "frist"],
            "own.csv:1: no column 'frist'; did you mean 'first'?",
        ),
        ([tmp_path / "own.csv", "--columns", "a,b,c"], "name the column of the texts, or the two of pairs"),
        ([tmp_path / "gone.txt"], "gone.txt: no such file"),
        ([tmp_path / "lines.txt", "--text", "a"], "PATH, --text and --data: not allowed together"),
        (["--text", "a", "b", "c"], "--text takes a text, or two of a pair"),
    ):
        done = invoke("predict", "--weights", best, *wrong)
        assert done.returncode == 2 and words in done.stderr, done.stderr


def test_numbers_are_learned(write_texts, tmp_path):
    config = write_texts(tmp_path)
    for name in ("train", "val"):
        lines = lines_of(tmp_path / f"{name}.tsv")
        values = {"bad": "1.5", "good": "4.5"}
        table = [
            lines[0],
            *(
                line.replace(word, values[word], 1)
                for line in lines[1:]
                for word in values
                if line.startswith(word)
            ),
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(table) + "\n")
    numbers = [
        "task={name: TextClassificationTask, score: spearman}",
        "loss={name: MeanSquaredErrorLoss}",
        "model.head.num_classes=1",
        *(
            f"dataloader.{split}.dataset.{setting}"
            for split in ("train", "val")
            for setting in ("regression=true", "class_names=null")
        ),
    ]
    trainer = Trainer(load_config(config, [*numbers, *LEARNING, "epochs=16"]), tmp_path / "run", World())
    assert trainer.fit()["raw_pearson"] > 70
    good, bad = Predictor(tmp_path / "run" / "last")(["a good the", "a bad the"])
    assert good.value > bad.value + 0.3 and not good.names
    out = tmp_path / "STS-B.tsv"
    assert (
        cli.predict(["--weights", str(tmp_path / "run" / "last"), "--text", "a bad the", "--out", str(out)])
        == 0
    )
    assert lines_of(out)[1] == f"0\t{bad.value:.3f}"
    assert cli.evaluate(["--weights", str(tmp_path / "run" / "last"), "--out", str(tmp_path / "m.json")]) == 0
    assert lines_of(tmp_path / "predictions.csv")[0] == "text,text_pair,label,value"


def test_what_has_no_labels_is_predicted(trained_texts, invoke, tmp_path):
    best = trained_texts / "output" / "texts" / "best"
    (tmp_path / "test.tsv").write_text("sentence\na good the\n")
    unlabelled = [
        f"dataloader.val.dataset.{setting}" for setting in (f"file={tmp_path}/test.tsv", "label=null")
    ]
    done = invoke("eval", "--weights", best, "-o", *unlabelled)
    assert done.returncode == 2 and "no labels, as those of a test set: `passl-sot predict`" in done.stderr
    assert invoke("predict", "--weights", best, tmp_path / "test.tsv").stdout.startswith("a good the  good  ")


def test_all_faults_are_told_at_once(write_texts, tmp_path):
    config = write_texts(tmp_path)
    settings = [
        "model.architecture={name: BERT, vocab_size: 7, max_positions: 20, embed_dim: 16, depth: 1,"
        " num_heads: 2, num_types: 1}",
        "dataloader.train.dataset.second=label",
        "dataloader.val.dataset.second=label",
        "task={name: TextClassificationTask, score: pearson, lm_weight: 0.5}",
    ]
    with pytest.raises(ConfigError) as told:
        Trainer(load_config(config, settings), tmp_path / "run", World())
    said = str(told.value)
    for part in (
        "the tokenizer of train knows 8 tokens, the model 7: write vocab_size: 8",
        "texts may have 24 tokens, and the model takes 20 (model.architecture.max_positions): write "
        "max_length: 20",
        "the texts of train have 2 types of tokens, the model 1: write num_types: 2",
        "the labels are classes, and pearson is of numbers: write score: accuracy",
        "BERT doesn't predict the next token: write task.lm_weight: 0",
    ):
        assert part in said
    with pytest.raises(DataError, match=r"write model.head.num_classes=2"):
        Trainer(load_config(config, ["model.head.num_classes=3"]), tmp_path / "classes", World())
    with pytest.raises(
        ConfigError, match=r"dataloader.val.dataset and model.architecture are for texts, and"
    ):
        Trainer(load_config(config, ["task=null"]), tmp_path / "task", World())
    images = load_config(
        config,
        [
            "model.architecture={name: DeiT, img_size: 32, patch_size: 8, embed_dim: 16, depth: 1,"
            " num_heads: 2}"
        ],
    )
    with pytest.raises(
        ConfigError, match=r"needs a backbone over texts .BERT, RoBERTa, GPT., and DeiT is none"
    ):
        Trainer(images, tmp_path / "images", World())


def test_gpt_keeps_on_predicting_tokens(write_texts, tmp_path):
    config = write_texts(tmp_path)
    gpt = [
        "epochs=1",
        "model.architecture={name: GPT, vocab_size: 16, max_positions: 32, embed_dim: 16, depth: 1,"
        " num_heads: 2}",
        "task={name: TextClassificationTask, lm_weight: 0.5}",
    ]
    trainer = Trainer(load_config(config, gpt), tmp_path / "run", World())
    trainer.fit()
    row = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(row["task_loss"] + 0.5 * row["lm_loss"], rel=1e-5)
    assert row["lm_loss"] == pytest.approx(np.log(16), abs=0.2)  # as of guesses among all tokens
    assert len(Predictor(tmp_path / "run" / "best")("a good the")[0].names) == 2


def test_a_constant_answer_is_told(write_texts, tmp_path, caplog):
    config = write_texts(tmp_path)
    still = Trainer(
        load_config(config, ["epochs=1", "lr_scheduler.learning_rate=1e-9"]), tmp_path / "run", World()
    )
    still.fit()
    assert "all 9 predictions are class '" in caplog.text


def test_a_header_holds_the_tokenizer_of_a_large_vocabulary(trained_texts, tmp_path):
    """As of RoBERTa: 2 MB of text that are quoted twice."""
    saved = read_checkpoint(trained_texts / "output" / "texts" / "best.safetensors")
    content = json.loads(saved.meta["preprocessing"]["tokenizer"])
    content["model"]["vocab"] |= {f"Ġwörd{i}": 8 + i for i in range(50_000)}
    saved.meta["preprocessing"]["tokenizer"] = json.dumps(content, ensure_ascii=False)
    large = tmp_path / "large.safetensors"
    write_checkpoint(large, saved.tensors, saved.meta)
    assert Predictor(large)("a good the")[0].names[0] == "good"
    saved.meta["preprocessing"]["tokenizer"] = "{}"
    write_checkpoint(large, saved.tensors, saved.meta)
    with pytest.raises(
        CheckpointError,
        match=r"large.safetensors, written by version .* can't be built here: this is no tokenizer",
    ):
        Predictor(large)
