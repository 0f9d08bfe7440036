"""Groups of parameters and the optimisers' updates, each by its formula in NumPy."""

import numpy as np
import paddle
import pytest

from passl_sot import create_model
from passl_sot.config import ConfigError, make_section
from passl_sot.optim import SCHEDULERS, build_optimizer
from passl_sot.optim.groups import (
    LrFactor,
    ParametersSection,
    describe_groups,
    freeze,
    group_parameters,
    set_rates,
)


@pytest.fixture(scope="module")
def digits():
    return create_model("sot_digits")


@pytest.fixture
def model():
    return create_model("sot_digits")


class Two(paddle.nn.Layer):
    """Two weights and a bias, whose gradients a test chooses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = paddle.nn.Linear(2, 3), paddle.nn.Linear(2, 3)
        self.values = np.random.default_rng(0).standard_normal((5, 3, 3)).astype("float32")

    def backward(self, step: int) -> dict[str, np.ndarray]:
        gradients = {}
        for name, p in self.named_parameters():
            index = 2 if name.endswith("bias") else "ab".index(name[0])
            gradients[name] = self.values[step, index, : p.size].repeat(2 if p.ndim == 2 else 1)[: p.size]
            gradients[name] = gradients[name].reshape(p.shape)
            (p * paddle.to_tensor(gradients[name])).sum().backward()
        return gradients


def run(optimizer: dict, section: ParametersSection, steps: int = 3, lr: float = 0.1):
    """Weights before each step and after the last, with the gradients, as trained by Paddle."""
    model = Two()
    groups = group_parameters(model, section)
    built = build_optimizer(optimizer)(model, groups)
    schedule = SCHEDULERS.build({"name": "ConstantSchedule", "learning_rate": lr})
    start = {name: p.numpy().astype(np.float64) for name, p in model.named_parameters()}
    gradients = []
    for step in range(steps):
        assert set_rates(built, groups, schedule, (step, 0.0, 10)) == lr
        gradients.append(model.backward(step))
        built.step()
        built.clear_grad()
    return start, gradients, {name: p.numpy() for name, p in model.named_parameters()}


HALF_B = ParametersSection(lr_factors=[LrFactor(pattern="b.*", factor=0.5)])


def share(name: str) -> float:
    return 0.5 if name.startswith("b") else 1.0


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_sgd_and_momentum(nesterov, momentum):
    if momentum is None and nesterov:
        return
    section = {"name": "SGD", "weight_decay": 0.01}
    if momentum:
        section = {"name": "Momentum", "weight_decay": 0.01, "momentum": momentum, "nesterov": nesterov}
    start, gradients, after = run(section, HALF_B)
    for name, weight in start.items():
        velocity = np.zeros_like(weight)
        for gradient in gradients:
            g = gradient[name] + (0.01 * weight if name.endswith("weight") else 0)
            velocity = (momentum or 0) * velocity + g
            step = g + momentum * velocity if nesterov else velocity
            weight = weight - 0.1 * share(name) * step
        np.testing.assert_allclose(after[name], weight, rtol=1e-5, atol=1e-6, err_msg=name)


def test_decay_of_all():
    everything = ParametersSection(weight_decay_on="all")
    start, gradients, after = run({"name": "SGD", "weight_decay": 0.5}, everything, steps=1)
    for name, weight in start.items():
        expected = weight - 0.1 * (gradients[0][name] + 0.5 * weight)
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)


def test_adamw_with_factors():
    """The decay is per unit of a parameter's own rate, as in torch."""
    start, gradients, after = run({"name": "AdamW", "weight_decay": 0.1}, HALF_B)
    for name, weight in start.items():
        first, second, rate = 0.0, 0.0, 0.1 * share(name)
        for t, gradient in enumerate(gradients, 1):
            g = gradient[name]
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            if name.endswith("weight"):
                weight = weight * (1 - rate * 0.1)
            weight = weight - rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(after[name], weight, rtol=2e-5, atol=1e-6, err_msg=name)


def test_lamb():
    start, gradients, after = run({"name": "Lamb", "weight_decay": 0.1}, HALF_B)
    for name, weight in start.items():
        first, second, decayed = 0.0, 0.0, name.endswith("weight")
        for t, gradient in enumerate(gradients, 1):
            g = gradient[name]
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-6)
            step = step + 0.1 * weight if decayed else step
            trust = np.linalg.norm(weight) / np.linalg.norm(step) if decayed else 1.0
            weight = weight - 0.1 * share(name) * trust * step
        np.testing.assert_allclose(after[name], weight, rtol=2e-5, atol=1e-6, err_msg=name)


def test_layer_decay(digits):
    groups = group_parameters(digits, ParametersSection(layer_decay=0.5))
    last = digits.num_layers
    seen = set()
    for group in groups:
        layers = {digits.layer_of(name) for name in group.parameters}
        assert len(layers) == 1 and group.peak == 1
        (layer,) = layers
        seen.add(layer)
        assert group.factor == 0.5 ** (last - layer) and group.title == f"layer {layer}"
    assert seen == set(range(last + 1))
    assert {g.factor for g in groups if any(n.startswith("head.") for n in g.parameters)} == {1.0}
    every = [name for group in groups for name in group.parameters]
    assert sorted(every) == sorted(n for n, p in digits.named_parameters() if not p.stop_gradient)


def test_the_first_pattern_counts_and_layer_decay_multiplies(digits):
    factors = [
        LrFactor(pattern="backbone.blocks.3.*", factor=0.1),
        LrFactor(pattern="backbone.*", factor=0.2),
    ]
    section = ParametersSection(layer_decay=0.5, lr_factors=factors)
    found = {name: g.factor for g in group_parameters(digits, section) for name in g.parameters}
    last = digits.num_layers
    for name, factor in found.items():
        own = 0.1 if name.startswith("backbone.blocks.3.") else 0.2 if name.startswith("backbone.") else 1.0
        assert factor == pytest.approx(own * 0.5 ** (last - digits.layer_of(name)))


def test_a_share_of_the_peak_alone(digits):
    """T2T-ViT's transfer: the body starts at a hundredth and ends at the same rate as the head."""
    section = ParametersSection(lr_factors=[LrFactor(pattern="backbone.*", factor=0.01, scales="peak")])
    groups = group_parameters(digits, section)
    optimizer = build_optimizer({"name": "Momentum"})(digits, groups)
    cosine = SCHEDULERS.build({"name": "CosineSchedule", "learning_rate": 0.05, "min_lr": 2e-4, "T_max": 60})
    parameters = dict(digits.named_parameters())
    for epoch, head, body in ((0, 0.05, 5e-4), (30, 0.0251, 3.5e-4), (60, 2e-4, 2e-4)):
        assert set_rates(optimizer, groups, cosine, (epoch, 0.0, 61)) == pytest.approx(head)
        own = optimizer.get_lr() * parameters["backbone.cls_token"].optimize_attr["learning_rate"]
        assert own == pytest.approx(body)
        assert parameters["head.cls_fc.weight"].optimize_attr["learning_rate"] == 1.0


def test_a_rate_of_zero_is_zero_for_all(digits):
    groups = group_parameters(digits, ParametersSection(layer_decay=0.5))
    optimizer = build_optimizer({"name": "AdamW"})(digits, groups)
    schedule = SCHEDULERS.build(
        {"name": "ConstantSchedule", "learning_rate": 1.0, "warmup_epochs": 1, "warmup_lr": 0.0}
    )
    assert set_rates(optimizer, groups, schedule, (0, 0.0, 2)) == 0.0
    assert optimizer.get_lr() == 0.0


def test_freezing(model):
    frozen = freeze(model, ["backbone.blocks.[01].*", "backbone.cls_token"])
    names = {n for n, _ in model.named_parameters()}
    assert frozen == {
        n for n in names if n.startswith(("backbone.blocks.0.", "backbone.blocks.1.")) or "cls_token" in n
    }
    assert all(p.stop_gradient == (n in frozen) for n, p in model.named_parameters() if "._" not in n)
    groups = group_parameters(model)
    assert not frozen & {name for group in groups for name in group.parameters}
    assert freeze(model, []) == set()


def test_patterns_that_match_nothing(model):
    with pytest.raises(ConfigError) as caught:
        freeze(model, ["backbone.*", "backbone.block.0.*", "xyz"])
    text = str(caught.value)
    assert "parameters.freeze.1: 'backbone.block.0.*' matches no trainable parameter; nearest: " in text
    assert "backbone.blocks.0.*" in text
    assert (
        "parameters.freeze.2: 'xyz' matches no trainable parameter; names begin with backbone, head" in text
    )
    assert not any(p.stop_gradient for n, p in model.named_parameters() if n.startswith("backbone.blocks"))
    with pytest.raises(ConfigError, match=r"parameters.lr_factors.0.pattern: 'hed.\*' matches .*head\.\*"):
        group_parameters(model, ParametersSection(lr_factors=[LrFactor(pattern="hed.*", factor=0.1)]))
    with pytest.raises(ConfigError, match="nothing is left to train"):
        freeze(model, ["*"])


def test_the_table(model):
    frozen = freeze(model, ["backbone.blocks.*"])
    factors = [LrFactor(pattern="backbone.*", factor=0.01, scales="peak")]
    groups = group_parameters(model, ParametersSection(lr_factors=factors))
    parameters = dict(model.named_parameters())
    lines = describe_groups(groups, 0.05, {name: parameters[name] for name in sorted(frozen)})
    assert lines[0].split() == [
        "parameter",
        "group",
        "tensors",
        "parameters",
        "weight",
        "decay",
        "learning",
        "rate",
    ]
    rows = [line.split(None, 3) for line in lines[1:]]
    assert [row[0] for row in rows] == ["backbone.*", "backbone.*", "others", "others", "frozen"]
    assert [row[3].split(None, 1)[1] for row in rows[:4]] == ["x 0.01 at its peak"] * 2 + ["x 1"] * 2
    assert {row[3].split()[0] for row in rows[:4]} == {"0", "0.05"}
    counted = sum(int(row[2].replace(",", "")) for row in rows)
    assert counted == sum(int(p.size) for n, p in parameters.items() if "._" not in n)


def test_the_section():
    section = make_section(
        ParametersSection, {"layer_decay": 0.65, "lr_factors": [{"pattern": "head.*", "factor": 10}]}
    )
    assert section.lr_factors == [LrFactor(pattern="head.*", factor=10)]
    for wrong, words in (
        ({"layer_decay": 0}, r"layer_decay: must lie in \(0, 1\]"),
        ({"lr_factors": [{"pattern": "head.*"}]}, "factor"),
        ({"lr_factors": [{"pattern": "", "factor": 1}]}, "pattern: must not be empty"),
        ({"lr_factors": [{"pattern": "a", "factor": 0}]}, "factor: must be above 0"),
        ({"freeze": "head.*"}, "freeze: expected a list"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_section(ParametersSection, wrong, "parameters")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "Momentum", "momentum": 1.0}, r"momentum: must lie in \(0, 1\)"),
        ({"name": "Lamb", "beta2": 1.0}, r"beta2: must lie in \[0, 1\)"),
        ({"name": "SGD", "momentum": 0.9}, "SGD has no argument 'momentum'"),
        ({"name": "Adamw"}, "did you mean 'AdamW'"),
    ],
)
def test_what_is_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        build_optimizer(section)
