"""Models of texts by name: one start for all configs of a size, with the files of its tokenizer."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from passl_sot import cli, create_model
from passl_sot.config import ConfigError, list_models, read_card
from passl_sot.interop import export_state_dict
from passl_sot.published.cards import card_of, cards, find_card
from passl_sot.published.fetch import FetchError
from passl_sot.published.store import is_published_name, local_weights, tokenizer_folder
from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import read_checkpoint, read_header

pytest.importorskip("tokenizers")
BASE = Path(__file__).parent.parent.parent / "configs" / "_base_" / "text.yaml"
SIZES = {"vocab_size": 12, "max_positions": 16, "embed_dim": 8, "depth": 1, "num_heads": 2}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "##s", "."]
CARDS = """
families:
  Tiny:
    page: https://example.org/tiny
    code_license: MIT
    files:
      bert_base:
        file: tiny-bert.bin
        url: {base}pytorch_model.bin
        tokenizer: ["{base}vocab.txt"]
        config: {config}
        starts: bert_base_*
"""
EXPERIMENT = """
_base_: {base}
epochs: 1
model:
  architecture: {{name: BERT, vocab_size: 12, max_positions: 16, embed_dim: 8, depth: 1, num_heads: 2}}
  head: {{num_classes: 2}}
task: {{name: TextClassificationTask}}
device: cpu
dataloader:
  train:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 4}}
    dataset:
      name: TextTable
      file: {folder}/train.csv
      max_length: 12
      tokenizer: {{format: wordpiece, path: null}}
  val:
    loader: {{num_workers: 0}}
    sampler: {{batch_size: 4}}
    dataset:
      name: TextTable
      file: {folder}/val.csv
      max_length: 12
      tokenizer: ${{dataloader.train.dataset.tokenizer}}
"""


@pytest.fixture
def published(web, writer, tmp_path, monkeypatch):
    """A tiny BERT on the server as Hugging Face has it, under the name of a shipped card."""
    for name, count in (("train", 8), ("val", 4)):
        rows = [f"{'good' if i % 2 else 'bad'} film .,{i % 2}" for i in range(count)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    config = tmp_path / "run.yaml"
    config.write_text(EXPERIMENT.format(base=BASE, folder=tmp_path))
    paddle.seed(3)
    model = create_model(str(config))
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    official = export_state_dict(model, arrays)
    tensors = {name: writer.Tensor.of(value) for name, value in official.items() if "classifier" not in name}
    tensors["cls.predictions.bias"] = writer.Tensor.of(np.zeros(12, "f4"))
    web.put("pytorch_model.bin", writer.write_zip(tmp_path / "a.bin", tensors).read_bytes())
    web.put("vocab.txt", "\n".join(WORDS).encode())
    (tmp_path / "cards.yaml").write_text(CARDS.format(base=web.address, config=config))
    monkeypatch.setenv("PASSL_SOT_CARDS", str(tmp_path / "cards.yaml"))
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PASSL_SOT_OFFLINE")
    folder = tmp_path / "home" / "bert_base"
    return SimpleNamespace(
        web=web, config=config, arrays=arrays, folder=folder, cards=tmp_path / "cards.yaml"
    )


def test_every_model_of_texts_has_a_start():
    known = cards()
    sizes = [
        "bert_base",
        "bert_large",
        "spanbert_base",
        "spanbert_large",
        "roberta_base",
        "roberta_large",
        "gpt",
    ]
    started = {name: find_card(name, known) for name in list_models()}
    of_texts = {name: card for name, card in started.items() if card and card.starts}
    assert {card.name for card in of_texts.values()} == {*sizes, "gpt"} and len(of_texts) == 7 * 8
    for name, card in of_texts.items():
        assert re.fullmatch(rf"{card.name}(_sot)?_(cola|rte|mnli|qnli)", name)
        assert card.config == f"{card.name}_cola" and card.tokenizer
        assert card.weights_license == read_card(name)["license"]
    assert is_published_name("gpt_sot_rte") and not is_published_name("gpt_of_mine")
    assert card_of("spanbert_large_mnli").weights_license.startswith("CC-BY-NC")


def test_one_start_for_all_configs_of_a_size(published, capfd):
    body = {name: value for name, value in published.arrays.items() if name.startswith("backbone.")}
    for name, given in (
        ("bert_base_rte", True),
        ("bert_base_sot_cola", "bert_base"),
        (published.config, "bert_base"),
    ):
        model = create_model(str(name), given, **SIZES)
        report = model.weights_report
        assert report.ok and not report.missing
        lacking = ("head.fc.",) if name != "bert_base_sot_cola" else ("head.",)
        assert report.left_new and all(entry.startswith(lacking) for entry in report.left_new)
        state = model.state_dict()
        for entry, value in body.items():
            np.testing.assert_array_equal(state[entry].numpy(), value, err_msg=entry)
    assert [path for path, _ in published.web.asked] == ["/pytorch_model.bin", "/vocab.txt"]
    assert "left new    head.fc.weight" in capfd.readouterr().out
    # What is kept has no head that nobody trained.
    kept = local_weights("bert_base_qnli")
    assert kept == published.folder / "bert_base.safetensors"
    names = {name for name in read_checkpoint(kept).tensors if name.startswith("model.head.")}
    assert names == {"model.head.dense.weight", "model.head.dense.bias"}
    _, header = read_header(kept)
    assert json.loads(header["preprocessing"]["tokenizer"])["model"]["vocab"]["film"] == 7


def test_the_files_of_the_tokenizer(published, monkeypatch):
    assert tokenizer_folder("bert_base_rte") == published.folder
    names = {".lock", "tiny-bert.bin", "vocab.txt", "bert_base.safetensors", "bert_base.json"}
    assert {path.name for path in published.folder.iterdir()} == names
    vocab = published.folder / "vocab.txt"
    vocab.unlink()
    tokenizer_folder("bert_base")
    assert vocab.read_text().split() == WORDS
    vocab.unlink()
    published.web.put("vocab.txt", b"other words", tag='"2"')
    with pytest.raises(
        FetchError, match=r"vocab\.txt: its sha256 is .*delete .*bert_base\.json too\)\. By hand: "
    ):
        tokenizer_folder("bert_base")
    monkeypatch.setenv("PASSL_SOT_OFFLINE", "1")
    address = re.escape(f"fetch vocab.txt from {published.web.address}vocab.txt")
    with pytest.raises(FetchError, match=address) as caught:
        tokenizer_folder("bert_base")
    assert "passl-sot convert" not in str(caught.value)
    vocab.write_text("other words")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: its sha256 is .*: delete it"):
        (published.folder / "bert_base.safetensors").unlink()
        tokenizer_folder("bert_base")
    vocab.unlink()
    monkeypatch.delenv("PASSL_SOT_OFFLINE")
    monkeypatch.setenv("PASSL_SOT_MIRROR", published.web.address + "mirror")
    published.web.put("mirror/bert_base-vocab.txt", "\n".join(WORDS).encode())
    tokenizer_folder("bert_base")
    assert vocab.read_text().split() == WORDS


def test_names_of_a_tokenizers_files(published):
    text = published.cards.read_text()
    for name in ("bert_base.json", "tiny-bert.bin", ".lock"):
        published.cards.write_text(text.replace("vocab.txt", name))
        with pytest.raises(ConfigError, match=f"no name of a file: '{re.escape(name)}'"):
            cards()


def test_training_takes_the_tokenizer(published, tmp_path, capfd):
    place = ["-o", f"output_dir={tmp_path}/out"]
    for config in (["-c", str(published.config)], []):
        assert cli.train([*config, "--pretrained", "bert_base", *place]) == 0
        name = "run" if config else "bert_base"
        best = read_checkpoint(tmp_path / "out" / name / "best")
        section = best.meta["config"]["dataloader"]["train"]["dataset"]["tokenizer"]
        assert section["path"] == str(published.folder)
    own = tmp_path / "words"
    own.mkdir()
    (own / "vocab.txt").write_text("\n".join(WORDS))
    own_words = f"dataloader.train.dataset.tokenizer.path={own}"
    more = ["-o", f"output_dir={tmp_path}/other", own_words]
    assert cli.train(["-c", str(published.config), "--pretrained", "bert_base", *more]) == 0
    best = read_checkpoint(tmp_path / "other" / "run" / "best")
    assert best.meta["config"]["dataloader"]["train"]["dataset"]["tokenizer"]["path"] == str(own)
    capfd.readouterr()
    assert cli.train(["-c", str(published.config), "-o", f"output_dir={tmp_path}/third"]) == 2
    assert "dataset.tokenizer needs a format and a path" in capfd.readouterr().err
    # The body alone knows no classes.
    assert cli.predict(["--weights", "bert_base", "--text", "a film"]) == 2
    assert "head.fc.weight" in capfd.readouterr().err
