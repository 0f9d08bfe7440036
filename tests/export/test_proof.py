"""The proof: graphs that some engine computes wrongly, or can't read, are refused and leave nothing."""

import paddle
import pytest
from paddle import nn

from passl_sot.export import export_model
from passl_sot.export.card import ExportError
from passl_sot.modeling.backbones.base import ImageBackbone
from passl_sot.tasks.classification import ClassificationTask


class Stub(nn.Layer):
    """A model of 8x8 images by one formulation."""

    def __init__(self):
        super().__init__()
        self.backbone = ImageBackbone(3, 1, 0, [1])
        self.backbone.img_size = (8, 8)
        self.token = self.create_parameter([1, 1, 8])
        self.eval()


class OuterProduct(Stub):
    """As SvPN had it: its inner axis is 1."""

    def forward(self, x):
        u = (x.mean(axis=1) + self.token).mean(axis=1).unsqueeze(-1)
        v = x.mean(axis=[1, 3]).unsqueeze(-1)
        return paddle.matmul(u, v, transpose_y=True).flatten(1)


class Mended(Stub):
    """As it has it."""

    def forward(self, x):
        u = (x.mean(axis=1) + self.token).mean(axis=1).unsqueeze(-1)
        v = x.mean(axis=[1, 3]).unsqueeze(-1)
        return (u * v.transpose([0, 2, 1])).flatten(1)


class ExpandAs(Stub):
    """As class tokens were prepended."""

    def forward(self, x):
        x = x.mean(axis=1)
        return paddle.concat([self.token.expand_as(x[:, :1]), x], axis=1).flatten(1)


class Forgetful(Stub):
    """A layer that computes something else in a graph."""

    def forward(self, x):
        x = (x.mean(axis=1) + self.token).mean(axis=1)
        if paddle.in_dynamic_mode():
            x = x + 0.01
        return x


@pytest.mark.parametrize(
    ("model", "formats", "complaint"),
    [
        (OuterProduct, ["paddle"], "outputs differ in inference by"),
        (ExpandAs, ["onnx"], "this model can't be written as onnx"),
        (Forgetful, ["paddle", "onnx"], "differ in paddle by .*inference by .*onnxruntime by"),
    ],
)
def test_a_wrong_graph_is_refused_and_leaves_nothing(model, formats, complaint, meta, tmp_path):
    with pytest.raises(ExportError, match=complaint):
        export_model(model(), meta, tmp_path / "out", formats)
    assert list(tmp_path.iterdir()) == []


def test_wrong_probabilities_beside_right_logits_are_refused(meta, tmp_path, monkeypatch):
    right = ClassificationTask.probabilities

    def probabilities(self, outputs):
        return right(self, outputs if paddle.in_dynamic_mode() else outputs * 2)

    monkeypatch.setattr(ClassificationTask, "probabilities", probabilities)
    with pytest.raises(ExportError, match=r"outputs differ in paddle by .*inference by"):
        export_model(Mended(), meta, tmp_path / "out", ["paddle"])
    assert list(tmp_path.iterdir()) == []


def test_the_mended_formulation_passes(meta, tmp_path):
    found = export_model(Mended(), meta, tmp_path / "out", ["paddle"])
    assert set(found) == {"paddle", "inference"}
    assert max(found.values()) < 1e-6
