"""Schedules, batch plans, decay groups, clipping, averaging: against their formulas and torch's rules."""

import math

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passl_sot.config import ConfigError
from passl_sot.optim import SCHEDULERS, build_optimizer
from passl_sot.optim.clip import clip_by_global_norm, global_grad_norm
from passl_sot.optim.ema import ModelEMA
from passl_sot.optim.groups import group_parameters
from passl_sot.optim.schedules import CosineSchedule, plan_batch

SOT = {"learning_rate": 1e-3, "T_max": 300, "warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5}


def test_cosine_has_timms_values():
    schedule = CosineSchedule(**SOT)
    assert schedule.lr(0, 0.0, 310) == pytest.approx(1e-6)
    assert schedule.lr(1, 0.0, 310) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 5)
    # The warm-up lies inside the cosine: at its end the rate is .9993 of the peak, not the peak.
    assert schedule.lr(5, 0.0, 310) / 1e-3 == pytest.approx(0.9993, abs=1e-4)
    assert schedule.lr(150, 0.0, 310) == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5))
    assert [schedule.lr(e, 0.0, 310) for e in (300, 309)] == [1e-5, 1e-5]


def test_epoch_unit_is_constant_inside_an_epoch_and_step_unit_is_not():
    assert CosineSchedule(**SOT).lr(2, 0.9, 310) == CosineSchedule(**SOT).lr(2, 0.0, 310)
    by_step = CosineSchedule(**SOT, unit="step")
    assert by_step.lr(2, 0.5, 310) == pytest.approx(1e-6 + 2.5 * (1e-3 - 1e-6) / 5)


def test_a_lag_of_one_epoch():
    """DeiT's script sets the rate of epoch e after it: epoch e runs at that of e - 1."""
    late = CosineSchedule(**SOT, lag=1)
    assert [late.lr(e, 0.5, 300) for e in (0, 1)] == [1e-6, 1e-6]
    assert late.lr(2, 0.0, 300) == pytest.approx(1e-6 + 0.999e-3 / 5)
    assert late.lr(5, 0.0, 300) == pytest.approx(1e-6 + 4 * 0.999e-3 / 5)
    assert late.lr(151, 0.0, 300) == pytest.approx(5.05e-4)
    # 298 of 300: half of 0.99e-3 times 1 + cos(pi * 298 / 300) = 2.19e-4, above the last rate.
    assert late.lr(299, 0.0, 300) == pytest.approx(1e-5 + 0.5 * 0.99e-3 * 2.1931e-4, rel=1e-6)
    punctual = CosineSchedule(**SOT)
    assert [late.lr(e + 1, 0.0, 300) for e in range(299)] == [punctual.lr(e, 0.0, 300) for e in range(299)]


def test_a_lag_of_one_update():
    """Swin's script sets the rate of update u after it: updates 0 and 1 share the first rate."""

    def rates(**more) -> list[float]:
        schedule = CosineSchedule(**SOT, unit="step", **more)
        return [schedule.lr(*schedule.point(epoch, u, 4), 300) for epoch in range(7) for u in range(4)]

    punctual = rates()
    assert punctual == [CosineSchedule(**SOT, unit="step").lr(n // 4, n % 4 / 4, 300) for n in range(28)]
    assert len(set(punctual)) == 28
    assert rates(lag=1) == [punctual[0], *punctual[:-1]]
    assert rates(lag=6) == [*[punctual[0]] * 6, *punctual[:-6]]
    by_epoch = CosineSchedule(**SOT, lag=1)
    assert by_epoch.point(3, 2, 4) == (3, 0.5)


def test_a_cosine_after_the_warm_up():
    """Swin's present code: 20 epochs of warm-up, then 280 of cosine that begin at the peak."""
    swin = {**SOT, "T_max": 280, "warmup_epochs": 20, "unit": "step"}
    after = CosineSchedule(**swin, warmup_prefix=True)
    assert after.lr(19, 0.5, 300) == pytest.approx(1e-6 + 19.5 * 0.999e-3 / 20)
    assert after.lr(20, 0.0, 300) == 1e-3
    assert after.lr(90, 0.0, 300) == pytest.approx(1e-5 + 0.5 * 0.99e-3 * (1 + math.sqrt(0.5)))
    assert after.lr(160, 0.0, 300) == pytest.approx(5.05e-4)
    assert after.lr(300, 0.0, 310) == 1e-5
    by_default = CosineSchedule(**{**swin, "T_max": None}, warmup_prefix=True)
    assert by_default.lr(160, 0.25, 300) == after.lr(160, 0.25, 300)
    within = CosineSchedule(**{**swin, "T_max": 300})
    assert within.lr(20, 0.0, 300) == pytest.approx(1e-5 + 0.5 * 0.99e-3 * (1 + math.cos(math.pi / 15)))


def test_what_another_batch_scales():
    everything, peak = (CosineSchedule(**SOT, scaled=scaled) for scaled in ("all", "peak"))
    for epoch in (0, 3, 5, 200, 305):
        assert everything.lr(epoch, 0.0, 310, 0.25) == pytest.approx(0.25 * everything.lr(epoch, 0.0, 310))
    assert [peak.lr(e, 0.0, 310, 0.25) for e in (0, 305)] == [1e-6, 1e-5]
    assert peak.lr(2, 0.0, 310, 0.25) == pytest.approx(1e-6 + 2 * (2.5e-4 - 1e-6) / 5)
    assert peak.lr(150, 0.0, 310, 0.25) == pytest.approx(1e-5 + 0.5 * (2.5e-4 - 1e-5))


@pytest.mark.parametrize(
    ("batch_size", "world", "batches", "rule", "expected"),
    [
        (128, 8, 1251, "accumulate", (1, 1024, 1.0)),
        (128, 1, 10009, "accumulate", (8, 1024, 1.0)),
        (96, 1, 13000, "accumulate", (11, 1056, 1056 / 1024)),  # what can't be accumulated scales the rate
        (16, 1, 5, "accumulate", (5, 80, 80 / 1024)),  # an epoch shorter than the accumulation limits it
        (256, 8, 625, "accumulate", (1, 2048, 2.0)),
        (64, 2, 1000, "scale_lr", (1, 128, 0.125)),
    ],
)
def test_batch_plan(batch_size, world, batches, rule, expected):
    schedule = CosineSchedule(**SOT, reference_batch=1024, batch_rule=rule)
    plan = plan_batch(schedule, batch_size, world, batches)
    assert (plan.accumulate, plan.effective, plan.lr_factor) == expected


@given(st.integers(1, 512), st.integers(1, 64), st.integers(1, 5000), st.integers(1, 4096))
def test_rate_per_image_is_the_recipes_whatever_the_devices(batch_size, world, batches, reference):
    schedule = CosineSchedule(**SOT, reference_batch=reference)
    plan = plan_batch(schedule, batch_size, world, batches)
    assert plan.lr_factor / plan.effective == pytest.approx(1 / reference)
    assert 1 <= plan.accumulate <= max(1, batches)


class Small(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(3, 4)
        self.bn = paddle.nn.BatchNorm1D(4)
        self.token = self.create_parameter([1, 1, 4])
        self.frozen = self.create_parameter([4, 4])
        self.frozen.stop_gradient = True

    def no_weight_decay(self):
        return {"token"}

    def forward(self, x):
        return self.bn(self.fc(x)) + self.token.sum()


def test_decay_groups():
    without, with_decay = group_parameters(Small())
    assert with_decay.decayed and list(with_decay.parameters) == ["fc.weight"]
    assert not without.decayed and sorted(without.parameters) == ["bn.bias", "bn.weight", "fc.bias", "token"]


def test_adamw_decays_only_its_group():
    model = Small()
    paddle.nn.Linear(2, 2)  # another layer's internal names must not matter
    optimizer = build_optimizer({"name": "AdamW", "weight_decay": 0.5})(model)
    optimizer.set_lr(0.1)
    before = {k: v.numpy() for k, v in model.named_parameters()}
    for p in model.parameters():
        if not p.stop_gradient:
            (p.sum() * 0.0).backward()
    optimizer.step()
    after = {k: v.numpy() for k, v in model.named_parameters()}
    np.testing.assert_allclose(after["fc.weight"], before["fc.weight"] * (1 - 0.1 * 0.5), rtol=1e-6)
    for name in ("fc.bias", "token", "bn.weight", "frozen"):
        np.testing.assert_array_equal(after[name], before[name])


def test_clipping_is_by_the_global_norm():
    weights = [paddle.create_parameter([n], "float32") for n in (2, 3)]
    weights[0].grad = paddle.to_tensor([3.0, 0.0])
    weights[1].grad = paddle.to_tensor([0.0, 4.0, 0.0])
    norm = global_grad_norm(weights)
    assert norm == pytest.approx(5.0)
    clip_by_global_norm(weights, norm, 10.0)
    np.testing.assert_allclose(weights[1].grad.numpy(), [0, 4, 0])
    clip_by_global_norm(weights, norm, 1.0)
    np.testing.assert_allclose(weights[0].grad.numpy(), [0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(weights[1].grad.numpy(), [0, 0.8, 0], rtol=1e-5)
    weights[0].grad = paddle.to_tensor([math.nan, 0.0])
    assert not math.isfinite(global_grad_norm(weights))


def test_ema_follows_weights_and_statistics_and_gives_the_weights_back():
    model = Small()
    ema = ModelEMA(model, 0.75)
    first = {k: v.numpy() for k, v in model.state_dict().items()}
    model.train()
    model(paddle.randn([8, 3]))  # moves the running statistics
    model.fc.weight.set_value(model.fc.weight + 1.0)
    ema.update()
    own = {k: v.numpy() for k, v in model.state_dict().items()}
    with ema.applied():
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(
                value.numpy(), 0.75 * first[name] + 0.25 * own[name], rtol=1e-5, atol=1e-7
            )
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), own[name])
    assert any("_mean" in name for name in ema.average)
    assert ema.updates == 1


def test_weights_come_back_after_an_error_inside():
    model = Small()
    ema = ModelEMA(model, 0.5)
    model.fc.bias.set_value(paddle.ones([4]))
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    np.testing.assert_array_equal(model.fc.bias.numpy(), np.ones(4))


def test_values_out_of_range_are_refused():
    for section in ({"learning_rate": 0.0}, {"learning_rate": 1e-3, "reference_batch": 0}):
        with pytest.raises(ValueError, match=r"must (be|lie)"):
            SCHEDULERS.build({"name": "CosineSchedule", **section})
    with pytest.raises(ValueError, match="at least 1e-06"):
        build_optimizer({"name": "AdamW", "clip_grad": 0.0})


@pytest.mark.parametrize(
    ("key", "value"),
    [("beta1", 1.0), ("beta2", -0.1), ("epsilon", 0), ("weight_decay", -1), ("weight_decay", math.nan)],
)
def test_optimizer_values_out_of_range(key: str, value: float):
    with pytest.raises(ConfigError, match=f"optimizer.{key}: must "):
        build_optimizer({"name": "AdamW", key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("warmup_lr", -1e-6),
        ("min_lr", math.inf),
        ("warmup_epochs", -1),
        ("warmup_epochs", math.nan),
        ("T_max", 0),
    ],
)
def test_schedule_values_out_of_range(key: str, value: float):
    with pytest.raises(ConfigError, match=f"lr_scheduler.{key}: must "):
        SCHEDULERS.build({"name": "CosineSchedule", "learning_rate": 1e-3, key: value})
