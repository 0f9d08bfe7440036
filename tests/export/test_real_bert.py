"""A real BERT (all-MiniLM-L6-v2): its files converted and tokenized, exported, predicted by and served."""

import http.client
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from passl_sot import Predictor, cli
from passl_sot.data.token_files import TokenizerSection
from passl_sot.data.tokens import Tokenizer, pad
from passl_sot.engine.schema import load_config
from passl_sot.export.card import read_facts
from passl_sot.zoo import load_weights

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow
CONFIG = """
_base_: {base}
model:
  architecture: {{name: BERT, vocab_size: 30522, embed_dim: 384, depth: 6, num_heads: 12}}
  head: {{name: LinearHead, pool: mean, num_classes: 3, in_channels: 384}}
dataloader:
  train:
    sampler: {{batch_size: 8}}
    dataset: &data {{name: TextTable, file: none.csv, tokenizer: {{format: json, path: {files}}}}}
  val: {{dataset: *data}}
"""
TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "Zürich, 東京 and 🍣: " * 12,
    ("A man is eating food.", "Nobody eats."),
    "",
]


@pytest.fixture(scope="module")
def bert(minilm, tmp_path_factory) -> SimpleNamespace:
    """`config`; `weights`, converted by the command, whose head is new; `folder`, their export."""
    place = tmp_path_factory.mktemp("bert")
    config = place / "minilm.yaml"
    base = ROOT / "configs" / "_base_" / "text.yaml"
    config.write_text(CONFIG.format(base=base, files=minilm), encoding="utf-8")
    weights = place / "minilm.pdparams"
    words = ["-c", config, "--num-classes", 3, "--src", minilm / "model.safetensors", "--dst", weights]
    assert cli.convert([str(word) for word in words]) == 0
    words = ["-c", config, "--weights", weights, "--out", place / "exported", "--formats", "onnx,openvino"]
    assert cli.export([str(word) for word in words]) == 0
    return SimpleNamespace(config=config, weights=weights, folder=place / "exported")


@pytest.fixture(scope="module")
def model(bert):
    built = load_config(bert.config).model.build()
    load_weights(built, bert.weights)
    built.eval()
    return built


@pytest.mark.parametrize("section", [{"format": "json"}, {"format": "wordpiece", "lower_case": True}])
def test_sentences_are_as_similar_as_published(minilm, model, section):
    tokenizer = Tokenizer.from_files(TokenizerSection(path=str(minilm), **section), 128)
    found = tokenizer.encode(TEXTS[:2])
    batch = pad([{"input_ids": one.ids, "token_type_ids": one.types} for one in found], tokenizer.pad_id)
    names = ("input_ids", "attention_mask", "token_type_ids")
    tokens, mask = model.backbone(*(paddle.to_tensor(batch[name]) for name in names))
    weights = mask.numpy()[..., None]
    means = (tokens.numpy() * weights).sum(axis=1) / weights.sum(axis=1)
    first, second = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert first @ second == pytest.approx(0.7553, abs=1e-4)


def test_every_engine_computes_it_at_any_length(bert):
    assert set(read_facts(bert.folder)["differences"]) == {"onnxruntime", "openvino"}
    assert max(read_facts(bert.folder)["differences"].values()) < 1e-5


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_rows_of_an_engine_are_those_of_the_model(bert, model, engine):
    predictor = Predictor(bert.folder, engine=engine)
    rows = predictor(TEXTS)
    samples = [predictor.read(text) for text in TEXTS]
    for row, sample in zip(rows, samples, strict=True):
        alone = predictor.task.inputs(predictor.task.collate([sample]))
        wanted = paddle.nn.functional.softmax(model(*map(paddle.to_tensor, alone))).numpy()[0]
        assert row.probabilities == pytest.approx(wanted[row.classes], abs=1e-5)
    assert len(samples[2]["input_ids"]) > 80
    assert np.std([row.probabilities[0] for row in rows]) > 1e-3


def test_it_is_served(bert, load_file):
    serving = load_file(ROOT / "docs" / "results" / "serving.py")
    with serving.serving(bert.folder, "--engine", "onnxruntime", "--timeout", 600) as server:
        connection = http.client.HTTPConnection(server.address, timeout=120)
        body = json.dumps({"texts": TEXTS})
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        rows = json.loads(connection.getresponse().read())["predictions"]
    for row, wanted in zip(rows, Predictor(bert.folder, engine="onnxruntime")(TEXTS), strict=True):
        assert row["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
        assert row["text"] == wanted.text
