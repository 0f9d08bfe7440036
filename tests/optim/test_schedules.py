"""The other schedules, by their formulas; what they share is tested with the cosine in test_optim."""

import pytest

from passl_sot.config import ConfigError
from passl_sot.optim import SCHEDULERS


def rates(name: str, epochs: int = 10, at=range(10), **settings) -> list[float]:
    schedule = SCHEDULERS.build({"name": name, "learning_rate": 0.8, **settings})
    return [schedule.lr(int(t), t % 1, epochs) for t in at]


def test_names():
    names = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "MultiStepSchedule", "PolySchedule"]
    assert SCHEDULERS.names() == [*names, "StepSchedule"]


def test_constant():
    assert rates("ConstantSchedule") == [0.8] * 10
    warm = rates("ConstantSchedule", warmup_epochs=2, warmup_lr=0.2)
    assert warm == pytest.approx([0.2, 0.5, *[0.8] * 8])


def test_step():
    assert rates("StepSchedule", step_size=4, gamma=0.5) == pytest.approx([0.8] * 4 + [0.4] * 4 + [0.2] * 2)
    by_default = rates("StepSchedule", step_size=2.5, unit="step", at=[0, 2.25, 2.5, 4.75, 5])
    assert by_default == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008])


def test_milestones():
    found = rates("MultiStepSchedule", milestones=[3, 5], gamma=0.5)
    assert found == pytest.approx([0.8] * 3 + [0.4] * 2 + [0.2] * 5)
    # Inside the schedule the warm-up counts, before it it doesn't.
    warm = {"milestones": [3, 5], "gamma": 0.5, "warmup_epochs": 2, "warmup_lr": 0.0}
    assert rates("MultiStepSchedule", **warm) == pytest.approx([0, 0.4, 0.8, *[0.4] * 2, *[0.2] * 5])
    later = rates("MultiStepSchedule", **warm, warmup_prefix=True)
    assert later == pytest.approx([0, 0.4, *[0.8] * 3, *[0.4] * 2, *[0.2] * 3])
    with pytest.raises(ConfigError, match=r"milestones must ascend, got \[5, 3\]"):
        rates("MultiStepSchedule", milestones=[5, 3])
    with pytest.raises(ConfigError, match="milestones: must not be empty"):
        rates("MultiStepSchedule", milestones=[])


def test_linear():
    assert rates("LinearSchedule", min_lr=0.0) == pytest.approx([0.8 * (1 - t / 10) for t in range(10)])
    cooled = rates("LinearSchedule", min_lr=0.2, T_max=4, unit="step", at=[0, 1, 2.5, 4, 9])
    assert cooled == pytest.approx([0.8, 0.65, 0.425, 0.2, 0.2])
    # As texts are fine-tuned: from 0 up over a fraction of the run, here of 60 updates, and down to 0 over
    # the rest, (T - u) / (T - W) by update.
    texts = SCHEDULERS.build(
        {
            "name": "LinearSchedule",
            "learning_rate": 0.8,
            "min_lr": 0.0,
            "warmup_lr": 0.0,
            "warmup_epochs": 0.6,
            "warmup_prefix": True,
            "unit": "step",
        }
    )
    found = [texts.lr(*texts.point(*divmod(update, 6), 6), 10) for update in range(60)]
    up = [0.8 * update / 3.6 for update in range(4)]
    assert found == pytest.approx([*up, *(0.8 * (60 - update) / (60 - 3.6) for update in range(4, 60))])


def test_poly():
    by_default = rates("PolySchedule", min_lr=0.0)
    assert by_default == pytest.approx([0.8 * (1 - t / 10) ** 0.9 for t in range(10)])
    squared = rates("PolySchedule", min_lr=0.4, power=2, warmup_epochs=2, warmup_lr=0.0, warmup_prefix=True)
    assert squared == pytest.approx([0, 0.4, *(0.4 + 0.4 * (1 - t / 8) ** 2 for t in range(8))])


@pytest.mark.parametrize("name", ["StepSchedule", "MultiStepSchedule", "PolySchedule", "LinearSchedule"])
def test_all_share_lag_unit_and_scaling(name):
    more = {"StepSchedule": {"step_size": 3}, "MultiStepSchedule": {"milestones": [3]}}.get(name, {})
    punctual = SCHEDULERS.build({"name": name, "learning_rate": 0.8, "warmup_epochs": 2, **more})
    late = SCHEDULERS.build({"name": name, "learning_rate": 0.8, "warmup_epochs": 2, "lag": 1, **more})
    assert late.lr(0, 0.5, 10) == punctual.lr(0, 0.0, 10)
    for epoch in range(9):
        assert late.lr(epoch + 1, 0.5, 10) == punctual.lr(epoch, 0.0, 10)
        assert punctual.lr(epoch, 0.0, 10, 0.5) == pytest.approx(0.5 * punctual.lr(epoch, 0.0, 10))
    assert punctual.lr(0, 0.0, 10, 1.0, 0.5) == 1e-6
    by_step = SCHEDULERS.build({"name": name, "learning_rate": 0.8, "lag": 3, "unit": "step", **more})
    assert by_step.point(2, 1, 8) == (1, 6 / 8) and by_step.point(0, 2, 8) == (0, 0.0)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "StepSchedule", "step_size": 0}, "step_size: must be above 0"),
        ({"name": "StepSchedule", "step_size": 3, "gamma": 1.5}, r"gamma: must lie in \(0, 1\]"),
        ({"name": "StepSchedule"}, "step_size"),
        ({"name": "PolySchedule", "power": 0}, "power: must be above 0"),
        ({"name": "LinearSchedule", "min_lr": -1}, "min_lr: must be at least 0"),
        ({"name": "ConstantSchedule", "T_max": 3}, "ConstantSchedule has no argument 'T_max'"),
        ({"name": "CosineSchedul"}, "did you mean 'CosineSchedule'"),
    ],
)
def test_what_is_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        SCHEDULERS.build({"learning_rate": 0.1, **section})
