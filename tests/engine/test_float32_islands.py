"""Every family in 16 bits, and the islands of float32 inside, on a CPU that plays a GPU.

Paddle's CPU has few kernels of 16 bits and its autocasting does nothing there. `Device16` stands in for both:
operations of 16-bit tensors are computed in float32 and rounded once, as a GPU's are, and
`paddle.amp.auto_cast` casts by Paddle's own lists. What a model does in 16 bits, and what in float32, is then
that of a GPU; the speed is not.
"""

from contextlib import contextmanager

import numpy as np
import paddle
import pytest
from paddle.amp.auto_cast import amp_initialize

from passl_sot.engine.amp import AmpSection, Precision
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import (
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    hard_distillation,
    soft_distillation,
)
from passl_sot.nn import ops
from passl_sot.nn.normalization import NORMALIZATIONS, build_normalization
from passl_sot.nn.ops import cpu_numba

LOW = (paddle.float16, paddle.bfloat16)
FLOATS = (*LOW, paddle.float32)
# Names in Paddle's lists of what the eager operations call themselves.
LISTED = {
    "sum": "reduce_sum",
    "mean": "reduce_mean",
    "cross_entropy_with_softmax": "softmax_with_cross_entropy",
    "linear": "linear_v2",
}
# Operators of tensors, and the operations that they are ("mul" in the lists is a product of matrices).
OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "pow": "pow",
    "matmul": "matmul",
}


def flat(values) -> list[paddle.Tensor]:
    """The floating tensors among arguments."""
    found = []
    for value in values:
        if isinstance(value, paddle.Tensor) and value.dtype in FLOATS:
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += flat(value)
    return found


def mapped(change, value):
    if isinstance(value, paddle.Tensor):
        return change(value) if value.dtype in FLOATS else value
    return type(value)(mapped(change, item) for item in value) if isinstance(value, (list, tuple)) else value


class Device16:
    """Plays a GPU of 16 bits until the test ends.

    Attributes:
        seen: (operation, type computed in, whether inside of `autocast_off()`) of every operation so far.
    """

    def __init__(self, monkeypatch):
        self.on, self.dtype, self.inside, self.seen = False, None, 0, []
        self.cast = paddle._C_ops.cast
        white, black = paddle.amp.white_list(), paddle.amp.black_list()
        self.white, self.black = white["bfloat16"]["O1"], black["bfloat16"]["O1"]
        for name in dir(paddle._C_ops):
            operation = getattr(paddle._C_ops, name)
            if callable(operation) and not name.startswith("_") and not name.endswith("_") and name != "cast":
                monkeypatch.setattr(paddle._C_ops, name, self.play(name, operation))
        for sign, name in OPERATORS.items():
            for method in (f"__{sign}__", f"__r{sign}__"):
                if hasattr(paddle.Tensor, method):
                    monkeypatch.setattr(
                        paddle.Tensor, method, self.play(name, getattr(paddle.Tensor, method))
                    )
        monkeypatch.setattr(paddle.amp, "auto_cast", self.auto_cast)
        # No formulation for CPUs.
        monkeypatch.setattr(ops, "_on_cpu", lambda x: False)
        monkeypatch.setattr(cpu_numba, "available", lambda x: False)

    @contextmanager
    def auto_cast(self, enable=True, level="O1", dtype="float16"):
        before = self.on, self.dtype, self.inside
        self.on, self.dtype = enable, getattr(paddle, dtype) if enable else self.dtype
        self.inside += not enable
        try:
            yield
        finally:
            self.on, self.dtype, self.inside = before

    def play(self, name, operation):
        listed = LISTED.get(name, name)

        def run(*args, **options):
            tensors = flat((*args, *options.values()))
            kinds = {tensor.dtype for tensor in tensors}
            low = kinds <= set(LOW) and bool(kinds)
            if self.on and listed in self.white:
                low = bool(kinds)
            elif self.on and listed in self.black:
                low = False
            kind = (kinds & set(LOW) or {self.dtype}).pop() if low else paddle.float32
            if kinds:
                self.seen.append((name, kind, self.inside > 0))
            if not kinds & set(LOW) and not low:
                return operation(*args, **options)

            def prepared(tensor):
                rounded = self.cast(tensor, kind) if tensor.dtype != kind else tensor
                return self.cast(rounded, paddle.float32) if low else rounded

            out = operation(*mapped(prepared, args), **{k: mapped(prepared, v) for k, v in options.items()})
            return (
                mapped(lambda t: self.cast(t, kind) if t.dtype == paddle.float32 else t, out) if low else out
            )

        return run


@pytest.fixture
def device(monkeypatch) -> Device16:
    return Device16(monkeypatch)


SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
LINEAR = {"name": "LinearHead", "num_classes": 3, "pool": "mean", "in_channels": 24, "num_prefix_tokens": 1}
SECOND = {"name": "SecondOrderHead", "num_classes": 3, "in_channels": 24, "num_heads": 2, "wr_dim": 6}
TEXTS = {"vocab_size": 40, "max_positions": 12, "embed_dim": 24, "depth": 2, "num_heads": 2}
STAGES = {"img_size": 32, "depths": [1, 2], "num_heads": [2, 4]}
MODELS = {
    "SoT": ({"name": "SoT", "token_dim": 8, **SMALL}, {**SECOND, "normalization": {"name": "SvPN"}}),
    "So-ViT": (
        {"name": "SoT", "token_dim": 8, "token_embed": "ResNet", **SMALL},
        {"name": "CrossCovarianceHead", "num_classes": 3, "in_channels": 24, "reduction": [8, 6]},
    ),
    "DeiT": ({"name": "DeiT", "patch_size": 8, **SMALL}, LINEAR),
    "T2TViT": ({"name": "T2TViT", "token_dim": 8, **SMALL}, LINEAR),
    "PiT": ({"name": "PiT", "patch_size": 4, "stride": 2, "head_dim": 6, **STAGES}, LINEAR),
    "Swin": (
        {"name": "Swin", "embed_dim": 12, "window_size": 3, **STAGES},
        {**LINEAR, "num_prefix_tokens": 0},
    ),
    "STViT": (
        {
            "name": "STViT",
            **STAGES,
            "embed_dim": [8, 24],
            "stoken_size": [4, 1],
            "n_iter": [2, 1],
            "layerscale": [False, True],
            "init_values": 0.1,
            "projection": 24,
        },
        {**LINEAR, "num_prefix_tokens": 0},
    ),
    "BERT": (
        {"name": "BERT", **TEXTS},
        {"name": "CrossCovarianceHead", "num_classes": 3, "in_channels": 24, "reduction": [8, 6]},
    ),
    "RoBERTa": ({"name": "RoBERTa", **TEXTS}, {"name": "PoolerHead", "num_classes": 3, "in_channels": 24}),
    "GPT": ({"name": "GPT", **TEXTS}, {**SECOND, "normalization": {"name": "SvPN"}}),
}


# Matrix products in float32: covariances, power iterations, random features, association with super tokens.
EXACT_PRODUCTS = {"SoT": 3, "So-ViT": 1, "T2TViT": 10, "STViT": 5, "BERT": 1, "GPT": 3}


def test_every_backbone_is_here():
    assert {architecture["name"] for architecture, _ in MODELS.values()} == set(BACKBONES.names())


def build(family: str):
    paddle.seed(0)
    architecture, head = MODELS[family]
    model = Classifier(architecture=architecture, head=head)
    return model, list(map(paddle.to_tensor, model.backbone.example_inputs(4)))


def loss_and_gradients(model: Classifier, inputs: list[paddle.Tensor], precision: Precision) -> tuple:
    """Logits, the loss, and all gradients as one vector."""
    with precision.autocast():
        logits = model(*inputs)
        loss = CrossEntropyLoss()(logits, paddle.to_tensor([0, 1, 2, 0]))
    loss.backward()
    gradients = [p.grad.astype("float32").numpy().ravel() for p in model.parameters() if p.grad is not None]
    return logits.astype("float32").numpy(), loss, np.concatenate(gradients)


@pytest.mark.parametrize(("kind", "near"), [("float16", 0.004), ("bfloat16", 0.03)])
@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("family", MODELS)
def test_every_family(family, level, kind, near, device):
    """Products are of 16 bits; norms, softmax, losses and islands of 32; the result is nearly float32's."""
    model, inputs = build(family)
    model.eval()
    exact, _, slope = loss_and_gradients(model, inputs, Precision(None, on_gpu=True, has_bfloat16=True))
    model.clear_gradients()
    if level == "O2":
        amp_initialize([model], kind, None)  # what `Precision.prepare` comes to on a GPU
    device.seen.clear()
    precision = Precision(AmpSection(level=level, dtype=kind), on_gpu=True, has_bfloat16=True)
    logits, loss, rough = loss_and_gradients(model, inputs, precision)
    assert np.abs(logits - exact).max() < near * np.abs(exact).max()
    assert loss.dtype == paddle.float32 and np.isfinite(rough).all()
    assert np.linalg.norm(rough - slope) < 3 * near * np.linalg.norm(slope)

    low = getattr(paddle, kind)
    assert {where for name, where, _ in device.seen if name == "linear"} == {low}
    assert {where for name, where, inside in device.seen if name == "matmul" and not inside} == {low}
    exacting = {"softmax", "layer_norm", "batch_norm", "cross_entropy_with_softmax", "mean", "sum", "exp"}
    seen = {name: where for name, where, _ in device.seen if name in exacting}
    assert {"softmax", "layer_norm", "cross_entropy_with_softmax"} <= set(seen)
    assert set(seen.values()) == {paddle.float32}, seen
    islands = [(name, where) for name, where, inside in device.seen if inside]
    assert {where for _, where in islands} <= {paddle.float32}
    assert [name for name, _ in islands].count("matmul") == EXACT_PRODUCTS.get(family, 0)


@pytest.mark.parametrize("name", NORMALIZATIONS.names())
def test_normalisations_of_matrices(name, device):
    """By autocasting a product of 16 bits would be among them: the island forbids it."""
    tokens = np.random.default_rng(0).standard_normal((4, 30, 6)).astype("float32")
    layer = build_normalization({"name": name}, 6)
    for kind in ("float16", "bfloat16"):
        with device.auto_cast(dtype=kind):
            covariance = paddle.to_tensor(np.einsum("bni,bnj->bij", tokens, tokens) / 30).astype(kind)
            device.seen.clear()
            vector = layer(covariance)
            assert vector.dtype == covariance.dtype
            assert device.seen and {where for _, where, _ in device.seen} == {paddle.float32}
        expected = layer(covariance.astype("float32")).numpy()
        step = {"float16": 2**-11, "bfloat16": 2**-8}[kind]
        np.testing.assert_allclose(vector.astype("float32").numpy(), expected, rtol=step, atol=1e-7)


def test_losses(device):
    """Also of logits that 16 bits could not be exponentiated in."""
    labels, soft = paddle.to_tensor([0, 1]), paddle.to_tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    teacher = paddle.to_tensor([[3.0, 1.0, -2.0], [0.0, 40.0, 1.0]])
    losses = {
        "labels": lambda x: CrossEntropyLoss(label_smoothing=0.1)(x, labels),
        "soft": lambda x: CrossEntropyLoss()(x, soft),
        "weights": lambda x: CrossEntropyLoss(class_weights=[1.0, 2.0, 0.5])(x, labels),
        "binary": lambda x: BinaryCrossEntropyLoss()(x, soft),
        "hard": lambda x: hard_distillation(x, teacher.astype(x.dtype)),
        "softened": lambda x: soft_distillation(x, teacher.astype(x.dtype), 2.0),
    }
    values = paddle.to_tensor([[60000.0, 100.0, -300.0], [20.0, 11.5, 0.125]])
    for kind in ("float16", "bfloat16"):
        for name, loss in losses.items():
            logits = values.astype(kind)
            with device.auto_cast(dtype=kind):
                device.seen.clear()
                found = loss(logits)
            assert found.dtype == paddle.float32
            low = {operation for operation, where, _ in device.seen if where != paddle.float32}
            assert low <= {"argmax"}, (name, low)
            assert float(found) == pytest.approx(float(loss(logits.astype("float32"))), rel=1e-6)


@pytest.mark.parametrize(("kind", "near"), [("float16", 0.002), ("bfloat16", 0.02)])
def test_the_loss_of_next_tokens(device, kind, near):
    """GPT's, which a task adds to that of the classes."""
    model, (ids, mask) = build("GPT")
    model.eval()
    exact = float(model.backbone.language_loss(model.backbone(ids, mask), ids))
    with device.auto_cast(dtype=kind):
        loss = model.backbone.language_loss(model.backbone(ids, mask), ids)
    assert loss.dtype == paddle.float32
    assert float(loss) == pytest.approx(exact, rel=near)
