"""Going on with a run: bit for bit as if it had never stopped, and never by accident with other settings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl_sot import cli
from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.weights.checkpoint import read_checkpoint, write_checkpoint

ROOT = Path(__file__).parents[2]
# Ten updates of two batches, five an epoch, with everything in them that draws random numbers.
EVERYTHING = """
epochs: 2
optimizer: {name: AdamW, clip_grad: 1.0}
lr_scheduler: {reference_batch: 4, warmup_epochs: 1, T_max: 2}
parameters: {layer_decay: 0.8}
checkpoint: {update_interval: 2, best_by: ema}
dataloader:
  train:
    sampler: {batch_size: 2, balanced: true}
    dataset:
      transforms:
        - {name: RandomResizedCrop, size: 32, interpolation: random}
        - {name: RandomHorizontalFlip}
        - {name: ColorJitter, brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.1}
        - {name: RandAugment, policy: rand-m9-mstd0.5-inc1}
        - {name: AutoAugment}
        - name: ByEpoch
          steps: {0: [], 1: [{name: ThreeAugment}]}
        - {name: RandomCrop, size: 32, padding: 4}
        - {name: Normalize}
        - {name: RandomErasing, prob: 0.5}
      batch_transforms:
        - {name: Mixup, num_classes: 3, off_epoch: 2}
loss: {name: CrossEntropyLoss, label_smoothing: 0.0}
"""


# The same of texts, whose dropout draws.
TEXTS = """
epochs: 2
lr_scheduler: {reference_batch: 4}
parameters: {layer_decay: 0.8}
checkpoint: {update_interval: 2, best_by: ema}
dataloader:
  train:
    sampler: {batch_size: 2}
"""


@pytest.fixture
def texts(write_texts, tmp_path) -> Path:
    config = write_texts(tmp_path)
    table = tmp_path / "train.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:21]))
    path = config.with_name("longer.yaml")
    path.write_text(f"_base_: {config.name}\n{TEXTS}", encoding="utf-8")
    return path


@pytest.fixture
def everything(experiment) -> Path:
    (experiment.parent / "train" / "c" / "0.png").unlink()
    (experiment.parent / "train" / "c" / "1.png").unlink()
    (experiment.parent / "train" / "c" / "2.png").unlink()
    path = experiment.with_name("everything.yaml")
    path.write_text(f"_base_: {experiment.name}\n{EVERYTHING}", encoding="utf-8")
    return path


def command(config: Path, output: Path, workers: int, *more: str) -> list[str]:
    settings = (f"output_dir={output}", f"dataloader.train.loader.num_workers={workers}")
    return [sys.executable, str(ROOT / "tools/train.py"), "-c", str(config), "-o", *settings, *more]


def kept(run: Path) -> tuple[dict, dict, list]:
    """What a run leaves behind, without what depends on the clock and on where it ran."""
    saved = read_checkpoint(run / "last.safetensors")
    meta = {k: saved.meta[k] for k in ("progress", "sampler", "ema_updates", "best_by", "class_names")}
    timed = ("time", "images_per_s", "sentences_per_s", "tokens_per_s", "data_wait", "memory_gb")
    rows = [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(run / "metrics.jsonl")]
    return saved.tensors, meta, rows


@pytest.mark.parametrize(
    ("config", "kills"),
    [
        ("everything", [(0, "epoch 1/2  update 5/5"), (2, "epoch 2/2  update 3/5")]),
        ("texts", [(2, "epoch 2/2  update 3/5")]),
    ],
)
def test_killed_runs_end_as_if_never_killed(config, kills, request, tmp_path, invoke):
    """Ten updates equal some, kill -9 in the middle of an epoch, and the others; with 0 and 2 workers."""
    config = request.getfixturevalue(config)
    done = invoke("train", *command(config, tmp_path / "whole", 0)[2:])
    assert done.returncode == 0, done.stderr
    tensors, meta, rows = kept(tmp_path / "whole" / config.stem)
    assert meta["progress"]["step"] == meta["ema_updates"] == 10
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 11))
    assert any(name.startswith("ema.") for name in tensors)
    for workers, last_line in kills:
        output = tmp_path / f"{workers}"
        with subprocess.Popen(command(config, output, workers), stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if last_line in line:
                    process.kill()
                    break
        at = read_checkpoint(output / config.stem / "last.safetensors").meta["progress"]
        assert 4 <= at["step"] < 10
        done = invoke("train", *command(config, output, workers)[2:], "--resume", "auto")
        assert done.returncode == 0, done.stderr
        assert f"epoch {at['epoch'] + 1}, batch {at['batches']}, {at['step']} updates" in done.stdout
        others, their_meta, their_rows = kept(output / config.stem)
        assert others.keys() == tensors.keys()
        for name, value in tensors.items():
            np.testing.assert_array_equal(others[name], value, err_msg=name)
        assert their_meta == meta
        assert json.dumps(their_rows) == json.dumps(rows)


@pytest.fixture
def stopped(experiment) -> Path:
    """A run of one epoch."""
    Trainer(load_config(experiment, ["epochs=1"]), experiment.parent / "output" / "run", World()).fit()
    return experiment


def test_changed_settings_are_refused_with_a_difference(stopped, capsys):
    resume = ["-c", str(stopped), "--resume", "auto", "-o"]
    last = stopped.parent / "output" / "run" / "last.safetensors"
    before = last.read_bytes()
    changes = ["epochs=2", "optimizer.weight_decay=0.5", "+optimizer.clip_grad=2", "log.interval=3"]
    for more in ([], ["--dry-run"], ["--resume-override", "epochs"]):
        assert cli.train([*resume, *changes, *more]) == 2
        said = capsys.readouterr().err
        assert f"{last} was written with other settings:" in said
        assert "  ~ optimizer.weight_decay: 0.03 -> 0.5\n  + optimizer.clip_grad: 2\n" in said
        assert ("  ~ epochs: 1 -> 2\n" in said) == ("--resume-override" not in more)
        assert "log.interval" not in said
        named = "" if "--resume-override" in more else "epochs "
        assert f"--resume-override {named}optimizer.weight_decay optimizer.clip_grad / " in said
    assert last.read_bytes() == before
    assert cli.train([*resume, *changes, "--resume-override", "epochs", "optimizer"]) == 0
    assert read_checkpoint(last).meta["config"]["optimizer"]["clip_grad"] == 2


def test_a_name_that_is_no_setting(stopped, capsys):
    words = ["-c", str(stopped), "--resume", "auto", "--resume-override", "optimiser"]
    assert cli.train(words) == 2
    said = capsys.readouterr().err
    assert "--resume-override: there is no setting 'optimiser'; did you mean 'optimizer'?" in said
    with pytest.raises(SystemExit):
        cli.train(["-c", str(stopped), "--resume-override", "epochs"])
    assert "--resume-override goes with --resume" in capsys.readouterr().err


def resume(config: Path, *more: str) -> int:
    words = ["-o", "epochs=2", "--resume-override", "epochs", *more]
    return cli.train(["-c", str(config), "--resume", "auto", *words])


def change_picture(path: Path) -> None:
    """Writes other pixels in the same number of bytes, and gives the file its time back."""
    size, times = path.stat().st_size, path.stat().st_mtime_ns
    with Image.open(path) as image:
        pixels = np.asarray(image) // 2
    Image.fromarray(pixels).save(path, optimize=True)
    assert path.stat().st_size < size
    os.truncate(path, size)  # bytes behind a picture don't count
    os.utime(path, ns=(times, times))


CHANGES = {
    "train: 1 image added: c/new.png": lambda root: shutil.copy(
        root / "train/c/1.png", root / "train/c/new.png"
    ),
    "train: 1 image removed: 猫/3.png": lambda root: (root / "train/猫/3.png").unlink(),
    "train: 1 image changed: c/4.png": lambda root: change_picture(root / "train/c/4.png"),
    "val: 1 image changed: a b/0.png": lambda root: change_picture(root / "val/a b/0.png"),
}


@pytest.mark.parametrize("line", CHANGES)
def test_changed_data_are_refused_or_accepted_by_name(stopped, capsys, line):
    last = stopped.parent / "output" / "run" / "last.safetensors"
    before = last.read_bytes()
    CHANGES[line](stopped.parent)
    section = f"dataloader.{line.split(':')[0]}.dataset"
    for more in ([], ["--dry-run"], [f"{section}.dataroot"]):
        assert resume(stopped, *more) == 2
        said = capsys.readouterr().err
        assert f"{last} was trained on other data:\n  {line}\nrestore them, begin a new run" in said
        assert f"say that the change is wanted: --resume-override {section} /" in said
    assert last.read_bytes() == before
    assert resume(stopped, section, "--dry-run") == 0
    assert f"going on with other data than before:\n{line}" in capsys.readouterr().out
    assert resume(stopped, section) == 0
    assert f"going on with other data than before:\n{line}" in capsys.readouterr().out
    assert resume(stopped) == 0  # on the data of the new checkpoint
    assert "other data" not in capsys.readouterr().out


def test_a_copy_of_the_data_on_another_disk_is_the_same(stopped, tmp_path, capsys):
    copy = tmp_path / "elsewhere"
    for split in ("train", "val"):
        shutil.copytree(stopped.parent / split, copy / split, copy_function=shutil.copyfile)
    roots = {f"dataloader.{split}.dataset.dataroot": copy / split for split in ("train", "val")}
    settings = ["-o", *(f"{key}={root}" for key, root in roots.items()), "--resume-override", *roots]
    assert resume(stopped, *settings) == 0
    assert "other data" not in capsys.readouterr().out


def test_a_checkpoint_of_an_earlier_version_is_not_compared(stopped, capsys):
    last = stopped.parent / "output" / "run" / "last.safetensors"
    saved = read_checkpoint(last)
    kept = {name: array for name, array in saved.tensors.items() if not name.startswith("data.")}
    assert len(kept) == len(saved.tensors) - 10
    write_checkpoint(last, kept, saved.meta)
    change_picture(stopped.parent / "train" / "c" / "4.png")
    assert resume(stopped) == 0
    assert read_checkpoint(last).tensors.keys() == saved.tensors.keys()
