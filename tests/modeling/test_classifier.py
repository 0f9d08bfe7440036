"""The classifier: fit of backbone and head, names, delegation."""

import copy
import gc

import numpy as np
import paddle
import pytest
from paddle.base import core

from passl_sot.config import Config, ConfigError
from passl_sot.modeling.backbones import BACKBONES, Backbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads import HEADS, Head
from passl_sot.modeling.stats import model_stats
from tests.modeling.test_models import build, inputs, node

ARCH = {"name": "SoT", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "token_dim": 8}
HEAD = {"name": "SecondOrderHead", "num_classes": 5, "in_channels": 24, "num_heads": 2, "wr_dim": 4}


def test_forward_in_two_steps():
    model = Classifier(architecture=ARCH, head=HEAD)
    model.eval()
    x = paddle.randn([2, 3, 32, 32])
    tokens = model.forward_features(x)
    np.testing.assert_array_equal(model.forward_head(tokens).numpy(), model(x).numpy())
    assert model.num_classes == 5
    assert {key.split(".")[0] for key in model.state_dict()} == {"backbone", "head"}


@pytest.mark.parametrize("name", BACKBONES.names())
@pytest.mark.parametrize("ask", ["nothing", "grad", "backward"])
def test_a_graph_that_nobody_needs_any_more_is_freed(name, ask):
    backbone = build(name)
    head = {**HEAD, "in_channels": backbone.num_features, "num_prefix_tokens": backbone.num_prefix_tokens}
    model = Classifier(architecture=node(name), head=head)
    x = inputs(backbone)
    first, *others = model.parameters()
    for parameter in others:
        parameter.stop_gradient = True

    def allocated() -> int:
        score = model(*x).sum()
        if ask == "grad":
            paddle.grad(score, [first])
        elif ask == "backward":
            score.backward()
            model.clear_gradients()
        del score
        gc.collect()
        return core.host_memory_stat_current_value("Allocated", 0)

    # The first call may keep what later ones need again.
    before = allocated()
    assert [allocated() for _ in range(3)] == [before] * 3


def test_nodes_stay_unchanged():
    cfg = Config({"architecture": ARCH, "head": {**HEAD, "normalization": {"name": "SvPN"}}})
    kept = copy.deepcopy(cfg)
    Classifier(architecture=cfg.architecture, head=cfg.head)
    assert cfg == kept


def test_widths_that_do_not_fit():
    with pytest.raises(ConfigError) as error:
        Classifier(architecture=ARCH, head={**HEAD, "in_channels": 20})
    text = str(error.value)
    assert "model.head.in_channels" in text and "model.architecture.embed_dim" in text
    assert "write model.head.in_channels: 24" in text


def test_prefixes_that_do_not_fit():
    with pytest.raises(ConfigError) as error:
        Classifier(architecture={**ARCH, "class_token": False}, head={**HEAD, "in_channels": 20})
    text = str(error.value)
    assert "write model.head.num_prefix_tokens: 0" in text and "model.architecture.class_token" in text
    assert len(error.value.faults) == 2
    model = Classifier(architecture={**ARCH, "class_token": False}, head={**HEAD, "num_prefix_tokens": 0})
    assert model(paddle.randn([1, 3, 32, 32])).shape == [1, 5]


def test_faulty_nodes():
    with pytest.raises(ConfigError, match="drop_path_rate"):
        Classifier(architecture={**ARCH, "drop_path": 0.1}, head=HEAD)


def test_layers_and_decay():
    model = Classifier(architecture=ARCH, head=HEAD)
    assert model.num_layers == 3
    assert model.layer_of("backbone.cls_token") == 0
    assert model.layer_of("backbone.blocks.1.attn.qkv.weight") == 2
    assert model.layer_of("backbone.norm.weight") == 3
    assert model.layer_of("head.visual_fc.weight") == 3
    assert model.no_weight_decay() == set()


def test_resize_reset_recompute():
    model = Classifier(architecture=ARCH, head=HEAD)
    model.resize([40, 24])
    model.reset_classifier(3)
    model.set_recompute(True)
    out = model(paddle.randn([2, 3, 40, 24]))
    out.sum().backward()
    assert out.shape == [2, 3]


def test_stats_leave_the_model_as_it_was():
    model = Classifier(architecture=ARCH, head=HEAD)
    model.train()
    model.backbone.visual_tokens.eval()
    forward = model.forward
    stats = model_stats(model)
    assert model.training and not model.backbone.visual_tokens.training
    assert model.forward == forward
    assert stats.parameters == sum(p.size for p in model.parameters() if not p.stop_gradient)
    assert stats.macs > stats.layer_macs > 0


def test_macs_by_hand():
    layer = paddle.nn.Sequential(
        paddle.nn.Conv2D(4, 6, 3, padding=1, groups=2), paddle.nn.Flatten(2), paddle.nn.Linear(16, 5)
    )
    by_hand = 6 * 16 * (2 * 9) + 6 * 16 * 5
    stats = model_stats(layer, [1, 4, 4, 4])
    assert stats.macs == stats.layer_macs == by_hand

    class Products(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.scale = self.create_parameter([1])

        def forward(self, x):
            square = paddle.matmul(x, x, transpose_x=True)  # [2, 3, 7] -> [2, 7, 7]
            return paddle.bmm(x, square) * self.scale

    assert model_stats(Products(), [2, 3, 7]).macs == 2 * 7 * 7 * 3 + 2 * 3 * 7 * 7


def test_static_graph_of_the_whole():
    # The backbones' own graphs are in test_models: here the smallest, for the head behind it.
    architecture = {**ARCH, "token_embed": "Naive_linear", "depth": 1}
    head = {**HEAD, "normalization": {"name": "SvPN", "dropout": 0.5}}
    model = Classifier(architecture=architecture, head=head)
    model.eval()
    x = paddle.randn([3, 3, 32, 32])
    expected = model(x).numpy()
    spec = paddle.static.InputSpec([None, 3, 32, 32], "float32")
    traced = paddle.jit.to_static(model, input_spec=[spec], full_graph=True)
    np.testing.assert_allclose(traced(x).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(traced(x[:2]).numpy(), expected[:2], atol=1e-5)


def test_it_learns():
    paddle.seed(0)
    model = Classifier(architecture=ARCH, head=HEAD)
    x, y = paddle.randn([10, 3, 32, 32]), paddle.to_tensor([0, 1, 2, 3, 4] * 2)
    optimizer = paddle.optimizer.AdamW(5e-3, parameters=model.parameters())
    losses = []
    for _ in range(40):
        loss = paddle.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]


def test_any_backbone_and_head(monkeypatch):
    """Sequences of numbers of any length: the classifier asks nothing of its inputs."""
    for registry in (BACKBONES, HEADS):
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))

    @BACKBONES.register()
    class Sequences(Backbone):
        def __init__(self, *, width: int) -> None:
            super().__init__(width)
            self.norm = paddle.nn.Linear(1, width)

        def forward(self, x):
            return self.norm(x["numbers"].unsqueeze(-1))

    @HEADS.register()
    class Largest(Head):
        def __init__(self, *, num_classes: int, in_channels: int) -> None:
            super().__init__(num_classes, in_channels, 0)

        def forward(self, x_bnc):
            return x_bnc.max(axis=1)[:, : self.num_classes]

    head = {"name": "Largest", "num_classes": 2, "in_channels": 4}
    model = Classifier(architecture={"name": "Sequences", "width": 4}, head=head)
    model.set_recompute()
    model.set_epoch(3)
    for length in (1, 7):
        assert model({"numbers": paddle.rand([3, length])}).shape == [3, 2]
    assert model.num_layers == model.layer_of("backbone.norm.weight") == 1
    with pytest.raises(ConfigError, match=r"write model\.head\.in_channels: 5"):
        Classifier(architecture={"name": "Sequences", "width": 5}, head=head)
    with pytest.raises(NotImplementedError, match="Sequences does not say which inputs it takes"):
        model_stats(model)
