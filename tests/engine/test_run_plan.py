"""`--data DIR` fits batch, accumulation, epochs, schedule and rate to the number of images."""

import numpy as np
import pytest
from PIL import Image

from passl_sot import cli
from passl_sot.cli.data_folder import Source
from passl_sot.config import find_config
from passl_sot.optim import SCHEDULERS
from passl_sot.optim.schedules import plan_batch


def write_folder(folder, per_class: int, classes: int = 3) -> None:
    rng = np.random.default_rng(0)
    for number in range(classes):
        (folder / str(number)).mkdir(parents=True)
        pixels = rng.integers(0, 255, (20, 20, 3)).astype(np.uint8)
        for i in range(per_class):
            Image.fromarray(pixels).save(folder / str(number) / f"{i}.png")


@pytest.fixture
def photos(tmp_path):
    write_folder(tmp_path / "photos", 20)
    return tmp_path / "photos"


def planned(config: str, photos, *overrides: str, images: int = 48):
    """The experiment, how its batch is brought about, and what is said."""
    added, lines = Source.of(config, None).on_folder(str(photos), overrides)
    experiment = Source.of(config, None).load([*added, *overrides])
    sampler = experiment.dataloader.train.sampler
    schedule = SCHEDULERS.build(experiment.lr_scheduler)
    batches = -(-images // sampler.batch_size)
    return experiment, schedule, plan_batch(schedule, sampler.batch_size, 1, batches), lines


def test_sixty_photos_and_the_demo_s_recipe(photos):
    experiment, schedule, batch, lines = planned("sot_digits", photos)
    sampler = experiment.dataloader.train.sampler
    assert (sampler.batch_size, batch.accumulate, batch.effective) == (8, 1, 8)
    assert sampler.drop_last is False and experiment.epochs == 50
    assert schedule.warmup_epochs == 5 and schedule.T_max is None
    assert schedule.learning_rate * batch.lr_factor == pytest.approx(2e-3 / 2)
    assert experiment.checkpoint.best_by == "raw"
    plan = [line.partition(" / ")[0] for line in lines if line.startswith("plan: ")]
    assert plan == [
        "plan: 8 images per update (recipe: 32), 6 updates an epoch, none of the 48 images left out",
        "plan: 50 epochs (recipe: 15), 5 of them warm-up, 300 updates; best by the raw weights, not their "
        "average",
        "plan: learning rate 0.001 (recipe: 0.002 for 32 images per update), by the square root of the batch",
    ]


@pytest.mark.parametrize(
    ("config", "length", "rate"),
    [("deit_tiny", 300, 1e-3), ("sot_tiny", 310, 1e-3), ("t2t_vit_14", 310, 5e-4), ("swin_tiny", 300, 1e-3)],
)
def test_imagenet_s_recipes(photos, config, length, rate):
    """Whether a recipe scales its rate or accumulates, a small batch gets a rate above the final one."""
    experiment, schedule, batch, _ = planned(config, photos)
    sampler = experiment.dataloader.train.sampler
    assert (sampler.batch_size, batch.accumulate, batch.lr_factor) == (8, 1, 1)
    assert (sampler.repeats, sampler.drop_last, experiment.epochs) == (1, False, length)
    reference = 512 if config.startswith("t2t") else 1024
    assert schedule.learning_rate == pytest.approx(rate * (8 / reference) ** 0.5, rel=1e-3)
    rates = [schedule.lr(epoch, 0.5, length) for epoch in range(length)]
    assert max(rates) == pytest.approx(schedule.learning_rate, rel=0.01)
    assert rates[-1] < 0.021 * max(rates) and rates[0] < 0.3 * max(rates)


def test_plain_gradient_descent_has_its_rate_in_proportion(photos):
    _, schedule, batch, lines = planned("t2t_vit_14_cifar10", photos)
    assert batch.effective == 8 and schedule.learning_rate == pytest.approx(0.05 / 8, rel=1e-3)
    assert any("in proportion to the batch" in line for line in lines)


def test_what_the_user_sets_stays(photos):
    batch = "dataloader.train.sampler.batch_size"
    told = ("epochs=20", f"{batch}=16", "lr_scheduler.learning_rate=3e-4", "lr_scheduler.warmup_epochs=1")
    experiment, schedule, found, _ = planned("sot_digits", photos, *told)
    assert (experiment.epochs, found.effective, schedule.warmup_epochs) == (20, 16, 1)
    assert schedule.learning_rate * found.lr_factor == pytest.approx(3e-4)
    experiment, schedule, found, _ = planned("sot_digits", photos, f"{batch}=4")
    assert found.effective == 4 and experiment.dataloader.train.sampler.batch_size == 4
    told = ("dataloader.train.sampler={batch_size: 6, drop_last: true}", "lr_scheduler.reference_batch=12")
    experiment, schedule, found, _ = planned("sot_digits", photos, *told)
    sampler = experiment.dataloader.train.sampler
    assert (sampler.batch_size, sampler.drop_last, found.effective) == (6, True, 12)
    assert schedule.learning_rate * found.lr_factor == pytest.approx(2e-3)


def test_a_shorter_run_has_a_schedule_that_fits(photos):
    _, schedule, _, _ = planned("sot_tiny", photos, "epochs=10")
    assert (schedule.T_max, schedule.warmup_epochs, schedule.unit) == (None, 1, "step")
    _, schedule, _, _ = planned("deit_tiny", photos, "epochs=10")
    assert (schedule.unit, schedule.lag) == ("step", 0)
    _, schedule, _, _ = planned(
        "sot_tiny", photos, "epochs=10", "lr_scheduler.name=PolySchedule", "lr_scheduler.learning_rate=1e-3"
    )
    assert schedule.warmup_epochs == 0


def test_steps_of_the_rate_move_with_the_length(photos):
    steps = "lr_scheduler={name: MultiStepSchedule, learning_rate: 1e-3, milestones: [9, 12]}"
    _, schedule, _, _ = planned("sot_digits", photos, steps)
    assert schedule.milestones == [9, 12]  # as the user says
    config = photos.parent / "steps.yaml"
    config.write_text(f"_base_: {find_config('sot_digits')}\n{steps.replace('=', ': ')}\n")
    experiment, schedule, _, _ = planned(str(config), photos)
    assert experiment.epochs == 50 and schedule.milestones == pytest.approx([30, 40])


def test_enough_images_leave_the_recipe_as_it_is(tmp_path):
    write_folder(tmp_path / "photos", 350, classes=2)
    small = "dataloader.train.dataset.val_share=0.1"
    experiment, schedule, batch, lines = planned("sot_digits", tmp_path / "photos", small, images=630)
    assert (experiment.epochs, batch.effective, schedule.learning_rate) == (15, 32, 2e-3)
    assert experiment.dataloader.train.sampler.drop_last is False  # 630 are no multiple of 32
    assert not [line for line in lines if line.startswith("plan: ")]
    _, schedule, _, lines = planned("sot_digits", tmp_path / "photos", small, "epochs=2", images=630)
    assert schedule.warmup_epochs == 0.2 and lines[-1].startswith(
        "plan: the schedule fits the run's 2 epochs"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "epochs=many",
        "lr_scheduler=3",
        "lr_scheduler.reference_batch=x",
        "lr_scheduler.warmup_epochs=[]",
        "lr_scheduler.learning_rate=fast",
        "dataloader.train.sampler.batch_size=0",
        "dataloader.train.dataset.val_share=all",
    ],
)
def test_faulty_settings_are_told_by_the_check_alone(photos, capfd, wrong):
    assert cli.train(["-c", "sot_digits", "--data", str(photos), "--dry-run", "-o", wrong]) == 2
    assert f"command line: {wrong.partition('=')[0]}" in capfd.readouterr().err


def test_a_batch_is_divided_among_processes(photos, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    experiment, schedule, _, _ = planned("sot_digits", photos)
    assert experiment.dataloader.train.sampler.batch_size == 2 and schedule.reference_batch == 8


def test_a_large_recipe_keeps_what_still_gives_updates(tmp_path):
    write_folder(tmp_path / "photos", 500, classes=2)  # 800 to train on
    _, schedule, batch, _ = planned("sot_tiny", tmp_path / "photos", images=800)
    assert batch.effective == schedule.reference_batch == 64
    _, _, batch, _ = planned(
        "sot_tiny", tmp_path / "photos", "dataloader.train.sampler.batch_size=32", images=800
    )
    assert (batch.accumulate, batch.effective) == (2, 64)


def test_the_whole_command_uses_every_image(photos, experiment, tmp_path, capfd):
    command = ["-c", str(experiment), "--data", str(photos), "-o", "epochs=1"]
    assert cli.train(command) == 0
    said = capfd.readouterr().out
    assert "6 updates an epoch, none of the 48 images left out" in said
    assert "1 accumulated = 8 images per update (lr_scheduler.reference_batch: 8)" in said
    # The run's first update, and then a line an epoch.
    assert "update 6/6" in said
