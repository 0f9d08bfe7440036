"""Real training runs on real files: records, resuming, signals, processes, faults."""

import itertools
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from PIL import Image
from visualdl import LogReader
from visualdl.server.data_manager import DataManager

from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.train_state import mix_seed, seed_all
from passl_sot.engine.trainer import NonFiniteError, Trainer
from passl_sot.modeling.classifier import Classifier
from passl_sot.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# With the draws of dropout that compiled loops make; without numba they are others.
CURVE = [1.0929, 1.1374, 1.0965, 0.9936, 1.0549, 0.8774, 0.8213, 0.6911, 0.6228, 0.5016, 0.4557, 0.3138]


def train(experiment: Path, *overrides: str, folder: Path | None = None, **more) -> Trainer:
    cfg = load_config(experiment, overrides)
    trainer = Trainer(cfg, folder or experiment.parent / "output" / "run", World(), **more)
    trainer.fit()
    return trainer


def same_tensors(first: Path, second: Path, tolerance: float = 0.0) -> None:
    a, b = read_checkpoint(first).tensors, read_checkpoint(second).tensors
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance, err_msg=name)


def test_records_of_a_run(experiment):
    trainer = train(experiment, "log.visualdl=true", "checkpoint.interval=1")
    folder = trainer.folder.path
    rows = read_metrics(folder / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 6
    assert {"grad_norm", "lr", "images_per_s", "data_wait", "memory_gb"} <= rows[0].keys()
    assert [row["step"] for row in rows if row["kind"] == "val_ema"] == [3, 6]
    record = next((folder / "visualdl").iterdir())
    reader = LogReader(file_path=str(record))
    assert {"train/loss", "train/lr", "val_raw/top1", "val_ema/top1"} <= set(reader.get_tags()["scalar"])
    assert [r.value for r in reader.get_data("scalar", "train/loss")] == pytest.approx(losses, rel=1e-6)
    files = {p.name for p in folder.iterdir()}
    assert {
        "last.safetensors",
        "best.safetensors",
        "epoch_0001.safetensors",
        "epoch_0002.safetensors",
    } <= files
    assert json.loads((folder / "run.json").read_text())["version"]
    meta = read_checkpoint(folder / "best.safetensors").meta
    assert meta["class_names"] == ["a b", "c", "猫"]
    assert meta["config"]["model"]["head"]["num_classes"] == 3
    assert meta["preprocessing"]["transforms"][-1]["name"] == "Normalize"
    assert load_config(folder / "config.yaml") == load_config(
        experiment, ["log.visualdl=true", "checkpoint.interval=1"]
    )


@pytest.fixture
def curves_on_the_page(monkeypatch):
    """Reads a folder as VisualDL's server does that is started now: one of its files."""

    def read(folder: Path) -> dict[str, list[tuple]]:
        monkeypatch.setattr("visualdl.reader.reader.default_data_manager", DataManager())
        return _scalars(LogReader(logdir=str(folder)), str(folder))

    return read


def _scalars(reader: LogReader, folder: str) -> dict[str, list[tuple]]:
    scalars = reader.data_manager.get_reservoir("scalar")
    found = {}
    for key in scalars.keys:
        run, _, tag = key.rpartition("/")
        if run == folder:
            items = scalars.get_items(run, tag)
            found[tag.replace("%", "/")] = [(item.id, item.value, item.timestamp) for item in items]
    return found


def test_visualdl_shows_all_of_a_resumed_run_and_no_update_twice(experiment, curves_on_the_page):
    """Cut off behind update 5; the checkpoint stands at 3, so 4 and 5 are those of the second try."""
    cfg = load_config(experiment, ["log.visualdl=true"])
    folder = experiment.parent / "output" / "run"
    cut = Trainer(cfg, folder, World())
    write = cut.folder.write

    def write_and_fail(kind: str, step: int, *rest) -> None:
        write(kind, step, *rest)
        if step == 5:
            raise KeyboardInterrupt

    cut.folder.write = write_and_fail
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    first = curves_on_the_page(folder / "visualdl")
    assert [step for step, *_ in first["train/loss"]] == [1, 2, 3, 4, 5]
    # As an older version left them, a file for each start.
    (folder / "visualdl" / "vdlrecords.1700000000.log").touch()
    Trainer(cfg, folder, World(), resume="auto").fit()
    assert [path.name for path in (folder / "visualdl").iterdir()] == ["vdlrecords.run.log"]
    page = curves_on_the_page(folder / "visualdl")
    rows = read_metrics(folder / "metrics.jsonl")
    wanted = {}
    for row in rows:
        for name in row.keys() - {"kind", "step", "epoch", "time"}:
            wanted.setdefault(f"{row['kind']}/{name}", []).append((row["step"], row[name]))
    assert [step for step, _ in wanted["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert page.keys() == wanted.keys()
    for tag, points in wanted.items():
        assert [(step, pytest.approx(value)) for step, value, _ in page[tag]] == points
        times = [round(time / 1000, 1) for *_, time in page[tag]]
        assert times == [round(row["time"], 1) for row in rows if row["kind"] == tag.split("/")[0]]


@pytest.mark.usefixtures("drawn")
def test_the_run_is_drawn_at_its_end_and_the_chosen_weights_come_first(experiment, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="passl_sot"):
        trainer = train(experiment, "epochs=3", "checkpoint.best_by=ema")
    lines = [r.getMessage() for r in caplog.records]
    said = next(line for line in lines if line.startswith("epoch 3/3  ema "))
    assert re.search(r"^epoch 3/3  ema [\d.]+ % \(loss [\d.]+\)  raw [\d.]+ %", said)
    assert "drawn: curves.png, confusion.png" in lines
    folder = trainer.folder.path
    kinds = [row["kind"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] != "train"]
    assert kinds == ["val_ema", "val_raw"] * 3
    meter, epoch = trainer.best
    best = [r["top1"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "val_ema"]
    assert epoch == 1 + best.index(max(best)) and meter.result()["top1"] == max(best)
    for name in ("curves.png", "confusion.png"):
        assert Image.open(folder / name).size > (300, 200)


@pytest.mark.usefixtures("drawn")
def test_a_run_whose_pictures_fail_is_complete(experiment, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    (experiment.parent / "output" / "run" / "curves.png").mkdir(parents=True)
    trainer = train(experiment, "epochs=1")
    assert trainer.progress.epoch == 1
    assert "the run's pictures can't be drawn: can't write" in caplog.text


def test_waiting_is_told_where_an_epoch_is_one_update(experiment, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    monkeypatch.setattr("passl_sot.engine.trainer._LONG_WAIT", -1.0)
    one = ("epochs=17", "eval_interval=17", "dataloader.train.sampler.batch_size=24")
    with caplog.at_level(logging.INFO, logger="passl_sot"):
        trainer = train(experiment, *one, "lr_scheduler.reference_batch=24")
    assert trainer.updates_per_epoch == 1
    (said,) = {r.getMessage() for r in caplog.records if "waiting for data" in r.getMessage()}
    assert "a smaller dataloader.train.sampler.batch_size lets batches be read ahead" in said


def test_loss_curve_is_pinned(experiment):
    """A change of any part of training (order, augmentation, rate, model, loss) shows as another curve."""
    faster = ("epochs=8", "loss.label_smoothing=0", "lr_scheduler.learning_rate=0.01")
    trainer = train(experiment, *faster)
    rows = read_metrics(trainer.folder.path / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[: len(CURVE)] == pytest.approx(CURVE, abs=2e-3)
    assert losses[-1] < 0.3


def test_drop_path_follows_its_schedule_through_a_run(experiment, tmp_path, monkeypatch):
    architecture = (
        "{name: STViT, img_size: 32, embed_dim: [8, 16], depths: [1, 2], num_heads: [1, 2], n_iter: [1, 1],"
        " stoken_size: [4, 1], layerscale: [false, true], projection: 16, drop_path_rate: {0: 0.2, 2: 0.6}}"
    )
    head = "{name: LinearHead, num_classes: 3, in_channels: 16, pool: mean, num_prefix_tokens: 0}"
    overrides = ["epochs=4", f"model.architecture={architecture}", f"model.head={head}"]
    seen = []
    forward = Classifier.forward

    def watched(model, x):
        if model.training:
            seen.append([round(b.drop_path.rate, 6) for stage in model.backbone.layers for b in stage.blocks])
        return forward(model, x)

    monkeypatch.setattr(Classifier, "forward", watched)
    train(experiment, *overrides)
    assert seen == [[0.0, 0.1, 0.2]] * 6 + [[0.0, 0.3, 0.6]] * 6  # three batches an epoch
    # A run that stops inside the schedule goes on with the rates of where it stands.
    folder = tmp_path / "stopped"
    monkeypatch.setattr(Trainer, "_keep_best", stop_after(3, Trainer._keep_best))
    with pytest.raises(KeyboardInterrupt):
        train(experiment, *overrides, folder=folder)
    monkeypatch.undo()
    monkeypatch.setattr(Classifier, "forward", watched)
    seen.clear()
    train(experiment, *overrides, folder=folder, resume="auto")
    assert seen == [[0.0, 0.3, 0.6]] * 3
    same_tensors(experiment.parent / "output" / "run" / "last.safetensors", folder / "last.safetensors")


def stop_after(epochs: int, keep_best):
    """The trainer's method, which is interrupted behind that many epochs' evaluation."""
    kept = []

    def keep(trainer: Trainer, top1: float) -> None:
        keep_best(trainer, top1)
        kept.append(top1)
        if len(kept) == epochs:
            raise KeyboardInterrupt

    return keep


def test_a_late_rate_of_another_batch(experiment):
    """Epochs 0 and 1 at the warm-up rate, then up; the batch of 8 for one of 16 halves the peak alone."""
    schedule = {"unit": "epoch", "lag": 1, "warmup_epochs": 2, "learning_rate": 0.002, "warmup_lr": 1e-4}
    schedule |= {"reference_batch": 16, "batch_rule": "scale_lr", "scaled": "peak"}
    settings = [f"lr_scheduler.{key}={value}" for key, value in schedule.items()]
    trainer = train(experiment, "epochs=3", *settings)
    rows = read_metrics(trainer.folder.path / "metrics.jsonl")
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert rates == pytest.approx([1e-4] * 6 + [1e-4 + (0.001 - 1e-4) / 2] * 3)


def test_a_rate_that_is_late_by_an_update(experiment, tmp_path):
    """As Swin's script: updates 0 and 1 of the run share the first rate; epochs make no difference."""

    def rates(lag: int) -> list[float]:
        trainer = train(experiment, f"lr_scheduler.lag={lag}", folder=tmp_path / str(lag))
        rows = read_metrics(trainer.folder.path / "metrics.jsonl")
        return [row["lr"] for row in rows if row["kind"] == "train"]

    punctual = rates(0)
    assert len(set(punctual)) == 6
    assert rates(1) == [punctual[0], *punctual[:-1]]


def test_sums_of_two_losses(experiment, tmp_path):
    """SoT's `sum_loss`: class token and words have a loss each; evaluation adds their logits."""
    quiet = ("model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0", "epochs=1")
    cfg = load_config(experiment, [*quiet, "model.head.fusion_type=sum_loss"])
    trainer = Trainer(cfg, tmp_path / "run", World())
    task, differences = trainer.task.step, []

    def compare(model, batch):
        values = task(model, batch)
        parts = model.head.forward_parts(model.backbone(batch["image"]))
        losses = [F.cross_entropy(part, batch["label"], label_smoothing=0.1) for part in parts]
        differences.append(float(values["loss"] - sum(losses)))
        return values

    trainer.task.step = compare
    results = trainer.fit()
    assert len(differences) == 3 and max(map(abs, differences)) < 1e-5
    logits, labels = [], []
    trainer.model.eval()
    for batch in trainer.val_loader:
        logits.append(sum(trainer.model.head.forward_parts(trainer.model.backbone(batch["image"]))))
        labels.append(batch["label"])
    loss = F.cross_entropy(paddle.concat(logits), paddle.concat(labels))
    assert results["raw_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_processes_draw_dropout_of_their_own():
    """One seed for the whole run: what processes draw differs by rank, as with the official seed + rank."""
    places = list(itertools.product((0, 42), range(3), range(100), range(8)))
    seeds = [mix_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_all_generators_follow_the_position():
    def draw(*place):
        seed_all(*place)
        return [random.random(), np.random.random(), paddle.rand([1]).item()]

    first = draw(3, 0, 7, 1)
    assert draw(3, 0, 7, 1) == first
    assert not set(draw(3, 0, 8, 1)) & set(first)


def test_a_run_is_not_overwritten(experiment):
    train(experiment, "epochs=1")
    with pytest.raises(ValueError, match="already holds a run: add --resume auto"):
        train(experiment, "epochs=1")


def test_same_seed_same_run(experiment, tmp_path):
    for name in ("one", "two"):
        train(experiment, folder=tmp_path / name)
    same_tensors(tmp_path / "one" / "last.safetensors", tmp_path / "two" / "last.safetensors")


@pytest.mark.parametrize(("workers", "repeats"), [(0, 1), (2, 1), (0, 3)])
def test_resuming_inside_an_epoch_equals_never_stopping(experiment, tmp_path, workers, repeats):
    settings = (
        f"dataloader.train.loader.num_workers={workers}",
        f"dataloader.train.sampler.repeats={repeats}",
        "epochs=3",
        "lr_scheduler.reference_batch=16",
    )
    whole = train(experiment, *settings, "dataloader.train.sampler.batch_size=4", folder=tmp_path / "whole")
    cfg = load_config(experiment, [*settings, "dataloader.train.sampler.batch_size=4"])
    cut = Trainer(cfg, tmp_path / "cut", World())
    assert cut.plan.accumulate == 4
    task = cut.task.step

    def stop_at_the_third_update(model, batch):
        if cut.progress.step == 2:
            cut.stop.signal = signal.SIGTERM
        return task(model, batch)

    cut.task.step = stop_at_the_third_update
    assert cut.fit() is None
    assert (cut.progress.epoch, cut.progress.batches, cut.progress.step) == (1, 4, 3)
    again = Trainer(cfg, tmp_path / "cut", World(), resume="auto")
    again.fit()
    same_tensors(whole.folder.path / "last.safetensors", again.folder.path / "last.safetensors")
    steps = [
        row["step"] for row in read_metrics(again.folder.path / "metrics.jsonl") if row["kind"] == "train"
    ]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_accumulation_equals_the_large_batch(experiment, same_update, tmp_path):
    quiet = ("epochs=1", "model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0")
    for name, size in (("large", 24), ("small", 6)):
        settings = ("lr_scheduler.reference_batch=24", f"dataloader.train.sampler.batch_size={size}")
        train(experiment, *quiet, *settings, folder=tmp_path / name)
    same_update(tmp_path / "large" / "last.safetensors", tmp_path / "small" / "last.safetensors")


def test_bad_files_are_skipped_and_named(experiment, caplog):
    (experiment.parent / "train" / "c" / "3.png").write_bytes(b"not an image")
    trainer = train(experiment, "epochs=1")
    assert len(trainer.train_loader.bad_files) == 1
    assert read_metrics(trainer.folder.path / "metrics.jsonl")[2]["bad_files"] == 1


def test_nonfinite_losses_are_skipped_then_named(experiment):
    cfg = load_config(experiment, ["epochs=2", "nonfinite_limit=2", "ema=null", "checkpoint.best_by=raw"])
    trainer = Trainer(cfg, experiment.parent / "output" / "nan", World())
    before = {k: v.numpy() for k, v in trainer.model.state_dict().items()}
    layer = trainer.model.backbone.blocks[1].mlp.fc1
    calls = []

    def spoil(_, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) != 2 else output

    layer.register_forward_post_hook(spoil)
    trainer.model.head.cls_fc.weight.stop_gradient = False
    with pytest.raises(
        NonFiniteError,
        match=r"2 updates in a row; it begins in the output of "
        r"backbone\.blocks\.1\.mlp\.fc1 \(Linear\)",
    ):
        trainer.fit()
    assert trainer.progress.skipped == 3
    assert all(np.isfinite(v.numpy()).all() for v in trainer.model.state_dict().values())
    assert any((v.numpy() != before[k]).any() for k, v in trainer.model.state_dict().items())


def test_init_from_starts_anew_and_keeps_what_fits(experiment, tmp_path):
    trained = train(experiment, "epochs=1", folder=tmp_path / "first").folder.path / "best.safetensors"
    cfg = load_config(experiment, ["epochs=1", "model.head.wr_dim=3"])
    fresh = Trainer(cfg, tmp_path / "second", World(), init_from=str(trained))
    assert fresh.progress.step == 0
    saved = read_checkpoint(trained)
    np.testing.assert_array_equal(
        fresh.model.backbone.cls_token.numpy(), saved.tensors["ema.backbone.cls_token"]
    )
    cfg = load_config(experiment, ["model.architecture.embed_dim=32"])
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.proj\.bias is \[16\] in the file and \[32\]"):
        Trainer(cfg, tmp_path / "third", World(), init_from=str(trained))


def test_an_average_added_on_resuming_begins_from_the_weights_resumed(experiment, tmp_path):
    without = ("ema=null", "checkpoint.best_by=raw")
    train(experiment, "epochs=1", *without, folder=tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run" / "last.safetensors")
    cfg = load_config(experiment, ["ema.decay=0.1"])
    named = ("ema", "checkpoint.best_by", "epochs")
    resumed = Trainer(cfg, tmp_path / "run", World(), resume="auto", resume_override=named)
    for name, value in saved.part("model").items():
        np.testing.assert_array_equal(resumed.ema.average[name].numpy(), value)


def test_an_average_that_remembers_its_start_does_not_choose_the_best(experiment, tmp_path):
    short = train(experiment, "epochs=1", "ema.decay=0.99", folder=tmp_path / "short")
    assert short.best_by == "raw"
    assert read_checkpoint(tmp_path / "short" / "best.safetensors").meta["best_by"] == "raw"
    assert train(experiment, "epochs=1", folder=tmp_path / "long").best_by == "ema"


def test_an_epoch_is_kept_when_its_evaluation_fails(experiment, tmp_path):
    cfg = load_config(experiment)
    trainer = Trainer(cfg, tmp_path / "run", World())
    broken = experiment.parent / "val" / "c" / "1.png"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png"):
        trainer.fit()
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").meta["progress"]["pending_evaluation"]
    broken.write_bytes(content)
    again = Trainer(cfg, tmp_path / "run", World(), resume="auto")
    again.fit()
    steps = [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "val_raw"]
    assert steps == [3, 6]


def test_a_kill_before_best_gets_its_name_is_mended(experiment, tmp_path):
    trainer = train(experiment, "epochs=1", folder=tmp_path / "run")
    trainer.folder.best.unlink()
    Trainer(load_config(experiment, ["epochs=1"]), tmp_path / "run", World(), resume="auto")
    saved = read_checkpoint(trainer.folder.best).meta["progress"]
    assert saved["step"] == saved["best_step"] == 3


def test_resuming_goes_by_progress_not_by_the_files_times(experiment, tmp_path):
    train(experiment, "checkpoint.interval=1", folder=tmp_path / "run")
    os.utime(tmp_path / "run" / "last.safetensors", (1, 1))
    assert Trainer(load_config(experiment), tmp_path / "run", World(), resume="auto").progress.epoch == 2


def test_two_runs_do_not_share_a_folder(experiment, tmp_path):
    cfg = load_config(experiment)
    first = Trainer(cfg, tmp_path / "run", World())
    with pytest.raises(ValueError, match="another process is training in"):
        Trainer(cfg, tmp_path / "run", World())
    first.fit()
    with pytest.raises(ValueError, match="already holds a run"):
        train(experiment, folder=tmp_path / "run")
    train(experiment, "epochs=1", folder=tmp_path / "other")
    with pytest.raises(ValueError, match="already holds a run"):
        Trainer(cfg, tmp_path / "run", World(), resume=str(tmp_path / "other" / "last.safetensors"))


def test_resuming_with_other_classes(experiment, tmp_path):
    train(experiment, "epochs=1", folder=tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    # Nothing is left to train: the record of what was trained stays as it is.
    train(experiment, "epochs=1", "log.interval=7", folder=tmp_path / "run", resume="auto")
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    for split in ("train", "val"):
        (experiment.parent / split / "c").rename(experiment.parent / split / "zebra")
    with pytest.raises(ValueError, match=r"was trained on the classes \['a b', 'c', '猫'\]"):
        Trainer(load_config(experiment, ["epochs=1"]), tmp_path / "run", World(), resume="auto")


def test_waiting_for_data_is_told_once_with_a_remedy(experiment, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl_sot"), "propagate", True)
    monkeypatch.setattr("passl_sot.engine.trainer._LONG_WAIT", -1.0)
    small = ("dataloader.train.sampler.batch_size=1", "lr_scheduler.reference_batch=1")
    with caplog.at_level(logging.INFO, logger="passl_sot"):
        train(experiment, *small, folder=tmp_path / "run")
    (said,) = {r.getMessage() for r in caplog.records if "waiting for data" in r.getMessage()}
    assert re.search(r"^\d+ % of the time went by waiting for data: one core prepares \d+ images/s", said)


def test_transforms_and_model_must_agree_on_the_size(experiment, tmp_path):
    for override, message in (
        ("dataloader.train.dataset.transforms.0.size=48", r"train\.dataset\.transforms: images become 48x48"),
        ("dataloader.val.dataset.transforms.1.size=40", r"val\.dataset\.transforms: images become 40x40"),
        (
            "dataloader.val.dataset.transforms=[{name: Resize, size: 32}, {name: Normalize}]",
            "different sizes",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(load_config(experiment, [override]), tmp_path / "run", World())


def test_photos_of_any_shape_evaluate(experiment, tmp_path):
    """The images are 36x40: the centre crop makes them square."""
    assert train(experiment, "epochs=1", folder=tmp_path / "run").val_loader.dataset.output_hw == (32, 32)


# -- whole processes ------------------------------------------------------------------------------


def test_evaluation_and_prediction_agree_row_for_row(experiment, tmp_path, invoke):
    assert invoke("train", "-c", experiment).returncode == 0
    best = experiment.parent / "output" / "run" / "best.safetensors"
    out = tmp_path / "eval" / "metrics.json"
    done = invoke("eval", "-c", experiment, "--weights", best, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["shown"] == "ema"
    assert report["images"] == report["raw"]["images"] == 9
    assert report["top1"] == report["ema"]["top1"]
    assert [key for key in report if key in ("raw", "ema")] == ["ema", "raw"]
    assert re.findall(r"INFO (\w+)  top1", done.stdout) == ["ema", "raw"]
    assert [row["name"] for row in report["per_class"]] == ["a b", "c", "猫"]
    assert all(Path(p).stat().st_size for p in report["files"])
    table = tmp_path / "out.csv"
    done = invoke(
        "predict",
        "--weights",
        best,
        "--out",
        tmp_path / "out.json",
        "--out",
        table,
        experiment.parent / "val",
    )
    assert done.returncode == 0, done.stderr
    evaluated = (tmp_path / "eval" / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    predicted = table.read_text(encoding="utf-8-sig").splitlines()[1:]
    rows = {line.split(",")[0]: line.split(",")[1:4] for line in predicted}
    assert len(rows) == 9
    for line in evaluated:
        path, _, best_class, name, probability = line.split(",")
        assert rows[path] == [best_class, name, probability]
    assert len(json.loads((tmp_path / "out.json").read_text())) == 9


def test_wrong_keys_end_with_status_2_and_one_message(experiment, invoke):
    text = experiment.read_text()
    experiment.write_text(text.replace("decay: 0.1", "decai: 0.1").replace("epochs: 2", "epochs: two"))
    for name in ("train", "eval"):
        done = invoke(name, "-c", experiment, *(["--weights", "x"] if name == "eval" else []))
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert "2 faults" in done.stderr
        assert re.search(r"run\.yaml:\d+: ema\.decai: .*did you mean 'decay'\?", done.stderr)
    assert not (experiment.parent / "output").exists()


def test_dry_run_estimates_and_writes_nothing(experiment, invoke):
    done = invoke("train", "-c", experiment, "--dry-run")
    assert done.returncode == 0, done.stderr
    for word in ("parameters", "GMACs", "memory", "images/s", "config and data are in order"):
        assert word in done.stdout
    assert not (experiment.parent / "output").exists()
    (experiment.parent / "val" / "c").rename(experiment.parent / "val" / "d")
    done = invoke("train", "-c", experiment, "--dry-run")
    assert done.returncode == 2
    assert "'d'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_say_how_to_go_on(experiment, invoke, number):
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(experiment), "-o", "epochs=500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "epoch 2/500  update 2/3" in line:
                process.send_signal(number)
                break
        rest = process.stdout.read()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], rest
    assert f"stopped by {number.name}; saved" in rest
    assert "--resume auto" in rest
    assert "Traceback" not in rest
    saved = read_checkpoint(experiment.parent / "output" / "run" / "last.safetensors").meta["progress"]
    assert saved["step"] >= 5
    again = ("-o", "epochs=3", "--resume", "auto", "--resume-override", "epochs")
    done = invoke("train", "-c", experiment, *again)
    # Fewer epochs than done already: nothing is trained, the run is evaluated.
    expected = "already complete" if saved["epoch"] >= 3 else "resuming from"
    assert expected in done.stdout


def test_time_to_help(tool):
    began = time.perf_counter()
    assert "--dry-run" in tool("train", "--help").stdout
    assert time.perf_counter() - began < 5
    code = "import sys, passl_sot.cli; assert not {'paddle', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_epoch_begins_without_a_line_of_its_own(experiment):
    """Lines come every so many updates, at an epoch's end, and for the first update of a run."""
    trainer = train(experiment, "log.interval=2")
    rows = [row for row in read_metrics(trainer.folder.path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 5, 6]
