"""Graphs in fewer bits: what is said of them is what they give, and which of their numbers stay."""

import re

import numpy as np
import pytest

from passl_sot import Predictor, cli
from passl_sot.engines import EngineError
from passl_sot.export.card import ExportError
from passl_sot.export.quantize import change, lower
from passl_sot.tasks.classification import ClassificationTask


def test_a_change_is_measured():
    before = np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    after = before.copy()
    after[1] = [2.0, 1.0]
    found = change(before, after, np.array([0, 1, 1]), "3 images")
    assert found.logits == 2.0  # one standard deviation is 1
    assert found.top1 == (1.0, pytest.approx(2 / 3))
    assert "top-1 100.00% becomes 66.67% (of 3 images)" in str(found)
    assert change(before, after, None, "3 images").top1 is None


@pytest.fixture(scope="module")
def int8(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    arguments = ["--weights", str(trained.checkpoint), "--out", str(folder), "--precision", "int8"]
    arguments += ["--calibrate", str(trained.config.parent / "val"), "--formats", "onnx,openvino"]
    assert cli.export(arguments) == 0
    return folder


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_is_near_the_model_and_not_the_same(trained, int8, engine):
    images = str(trained.config.parent / "val")
    wanted = np.array([row.probabilities for row in Predictor(trained.checkpoint)(images)])
    predictor = Predictor(int8, engine=engine)
    assert predictor.precision == "int8"
    found = np.array([row.probabilities for row in predictor(images)])
    assert 0 < np.abs(found - wanted).max() < 0.1


def test_the_default_engine_names_those_for_int8(int8):
    with pytest.raises(EngineError, match="for int8 choose onnxruntime or openvino"):
        Predictor(int8)
    with pytest.raises(EngineError, match="was exported in int8, not in f32: leave the precision out"):
        Predictor(int8, precision="f32")


def test_only_products_with_weights_are_in_int8(int8):
    import onnx

    graph = onnx.load(int8 / "inference.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    quantized = [[made_by.get(name) == "DequantizeLinear" for name in node.input] for node in products]
    # Attention has two products in each of two blocks, the second-order head three: the matrix's, and svPN's.
    assert quantized.count([False, False]) == 7
    assert quantized.count([True, True]) == len(quantized) - 7 > 7


def test_bf16_says_what_it_changes(trained, invoke, tmp_path):
    words = ["--weights", trained.checkpoint, "--formats", "openvino", "--precision", "bf16"]
    result = invoke("export", *words, "--out", tmp_path / "out")
    if "on this processor" in result.stderr:
        pytest.skip("this processor computes no bf16")
    assert result.returncode == 0
    assert re.search(r"openvino in bf16: logits differ .* top-1 .* becomes .*\(of 9 images\)", result.stdout)


def test_fewer_bits_need_images(tmp_path):
    with pytest.raises(ExportError, match="--calibrate"):
        lower(tmp_path, "int8", ClassificationTask(), None)
    with pytest.raises(ExportError, match="choose another format"):
        lower(tmp_path, "int8", ClassificationTask(), [0])
