"""A task of another kind, registered here alone: a model learns the sums of sequences of numbers."""

import json
import signal
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from passl_sot import Predictor, cli
from passl_sot.config import ConfigError, Count, Fault
from passl_sot.data import DATASETS, Dataset, ItemError
from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.losses import LOSSES
from passl_sot.tasks.base import TASKS, Task, Words
from passl_sot.weights.checkpoint import CheckpointError, read_checkpoint

CONFIG = """
epochs: 6
seed: 3
device: cpu
output_dir: {folder}/output
task: {{name: SumTask, low: -1.0}}
model:
  architecture: {{name: EachNumber, width: 8}}
  head: {{name: Total, in_channels: 8}}
loss: {{name: AbsoluteError}}
optimizer: {{name: AdamW, weight_decay: 0.01}}
lr_scheduler: {{name: CosineSchedule, learning_rate: 0.02, unit: step, reference_batch: 8}}
ema: {{decay: 0.5}}
checkpoint: {{best_by: ema}}
log: {{interval: 1, visualdl: false}}
dataloader:
  train:
    loader: &here {{num_workers: 0}}
    sampler: {{batch_size: 4}}
    dataset: {{name: Sequences, count: 24, noise: 0.01}}
  val:
    loader: *here
    sampler: {{batch_size: 5}}
    dataset: {{name: Sequences, count: 12, first: 100}}
"""


class Sequences(Dataset):
    """Sequences of 2 to 8 numbers."""

    noun = "sequence"

    def __init__(self, *, count: Count, first: int = 0, noise: float = 0.0):
        self.count = count
        self.first = first
        self.noise = noise

    def __len__(self) -> int:
        return self.count

    def sample(self, key, out=None) -> dict:
        epoch, index = key
        if self.first + index == 7:
            raise ItemError("sequence 7", "it is left out")
        rng = np.random.default_rng(self.first + index)
        values = rng.uniform(-1, 1, rng.integers(2, 9)).astype(np.float32)
        target = values.sum()
        values += self.noise * np.random.default_rng([self.seed, epoch, index]).standard_normal(len(values))
        return {"values": values, "target": target, "index": index}

    def collate(self, samples) -> dict:
        return {
            "values": padded([sample["values"] for sample in samples]),
            "target": np.array([sample["target"] for sample in samples], np.float32),
            "index": np.array([sample["index"] for sample in samples], np.int64),
        }


def padded(sequences) -> np.ndarray:
    """[B, T, 2]: the numbers, and 1 where there is one."""
    out = np.zeros((len(sequences), max(map(len, sequences)), 2), np.float32)
    for row, values in zip(out, sequences, strict=True):
        row[: len(values), 0] = values
        row[: len(values), 1] = 1
    return out


class EachNumber(nn.Layer):
    """[B, T, 2] to [B, T, C]; zeros where there is no number."""

    num_prefix_tokens = 0

    def __init__(self, *, width: Count):
        super().__init__()
        self.num_features = width
        self.fc = nn.Linear(1, width)

    def forward(self, x):
        return self.fc(x[:, :, :1]) * x[:, :, 1:]

    def set_epoch(self, epoch):
        pass

    def no_weight_decay(self):
        return set()


class Total(nn.Layer):
    """[B, T, C] to [B]."""

    num_prefix_tokens = 0

    def __init__(self, *, in_channels: Count):
        super().__init__()
        self.in_channels = in_channels
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(in_channels, 1)

    def forward(self, x):
        return self.fc(self.dropout(x).sum(axis=1))[:, 0]


class AbsoluteError(nn.Layer):
    """Mean of the absolute differences."""

    def __init__(self):
        super().__init__()

    def forward(self, outputs, target):
        return (outputs - target).abs().mean()


class ErrorMeter:
    """Sums of items and absolute errors."""

    def __init__(self):
        self.sums = np.zeros(2)

    def take(self, outputs, target):
        self.sums += [len(target), np.abs(outputs - target).sum()]

    def gather(self, total):
        self.sums = total(self.sums)

    @property
    def items(self):
        return int(self.sums[0])

    def result(self):
        mean = self.sums[1] / self.sums[0]
        return {"mae": mean, "negative_mae": -mean}


class SumTask(Task):
    """The sum of a sequence; lower errors are better, so their negative chooses the best."""

    words = Words(item="sequence", score="negative error")
    score = "negative_mae"

    def __init__(self, *, low: float):
        self.low = low

    @classmethod
    def complaint(cls, training_mode):
        return "a sum is learned with dropout" if training_mode == "eval" else ""

    @classmethod
    def check_card(cls, path, meta):
        if "lowest" not in meta:
            raise CheckpointError(f"{path} has no lowest number")

    def check(self, model, train, val, section, *, every_item=False):
        if len(train) <= len(val):
            fault = Fault("dataloader.train.dataset.count", "more are needed than for validation")
            raise ConfigError([fault])

    def step(self, model, batch):
        outputs = model(batch["values"])
        return {"loss": self.loss(outputs, batch["target"]), "largest": outputs.abs().max()}

    def inputs(self, batch):
        return (batch["values"],)

    def probe(self, model, size):
        return {"values": paddle.ones([size, 5, 2]), "target": paddle.zeros([size])}

    def meter(self, model, val, *, rows=False):
        return ErrorMeter()

    def measure(self, model, batch, meter):
        meter.take(model(batch["values"]).numpy(), batch["target"].numpy())

    def write_files(self, meter, val, folder):
        path = folder / "error.txt"
        path.write_text(f"{meter.result()['mae']:.6f}")
        return [path]

    def describe(self):
        return {"lowest": self.low}

    def use_card(self, card):
        self.low = card["lowest"]

    def read(self, item):
        values = np.asarray(item, np.float32)
        if values.min() < self.low:
            raise ItemError("the sequence", f"has a number below {self.low}")
        return {"values": values}

    def collate(self, samples):
        return {"values": padded([sample["values"] for sample in samples])}

    def decode(self, outputs, top_k):
        return [{"sum": float(value)} for value in outputs]


KINDS = (
    (DATASETS, Sequences),
    (BACKBONES, EachNumber),
    (HEADS, Total),
    (LOSSES, AbsoluteError),
    (TASKS, SumTask),
)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    # Registered for one test at a time: others go over all that is registered.
    for registry, kind in KINDS:
        registry.names()  # imports what is registered elsewhere, to stay
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))
        registry.register()(kind)
    path = tmp_path / "sums.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.mark.usefixtures("drawn")
def test_commands(config, tmp_path, capfd):
    assert cli.train(["-c", str(config), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "config and data are in order: 24 training, 12 validation sequences" in said
    assert "sequences/s per process" in said and "one sequence" in said and "MB a sequence" in said
    assert cli.train(["-c", str(config)]) == 0
    said = capfd.readouterr().out
    assert "finished: best negative error -0." in said and " 8 sequences per update" in said
    assert "unreadable sequence 1 (at most 10 may be skipped)" in said and "drawn: curves.png\n" in said
    folder = tmp_path / "output" / "sums"
    rows = read_metrics(folder / "metrics.jsonl")
    assert {"loss", "largest", "sequences_per_s"} <= rows[0].keys()
    errors = [row["mae"] for row in rows if row["kind"] == "val_ema"]
    assert len(errors) == 6 and errors[-1] < 0.5 * errors[0]
    best = read_checkpoint(folder / "best.safetensors").meta
    assert best["progress"]["best"] == -min(errors) and best["lowest"] == -1.0
    assert not {"class_names", "preprocessing"} & best.keys()
    out = tmp_path / "evaluation" / "metrics.json"
    assert cli.evaluate(["-c", str(config), "--weights", str(folder / "best"), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["shown"] == "ema" and report["mae"] == pytest.approx(min(errors))
    assert report["files"] == [str(out.parent / "error.txt")]
    predictor = Predictor(folder / "best")
    long, wrong, short = predictor.predict([[0.5, -0.25, 1.0, 0.125], [0.5, -2.0], [0.25, 0.5]])
    assert long["sum"] == pytest.approx(1.375, abs=0.6) and not long["error"]
    assert short["sum"] == pytest.approx(0.75, abs=0.6)
    assert "has a number below -1.0" in wrong["error"] and "sum" not in wrong
    (alone,) = predictor([[0.25, 0.5]])  # padding changes nothing
    assert alone["sum"] == pytest.approx(short["sum"], abs=1e-6)


def test_a_run_that_was_stopped_equals_one_that_was_not(config, tmp_path):
    experiment = load_config(config)
    Trainer(experiment, tmp_path / "whole", World()).fit()
    cut = Trainer(experiment, tmp_path / "cut", World())
    step = cut.task.step

    def stop_inside_the_third_epoch(model, batch):
        if cut.progress.step == 7:
            cut.stop.signal = signal.SIGTERM
        return step(model, batch)

    cut.task.step = stop_inside_the_third_epoch
    assert cut.fit() is None and cut.progress.batches == 4
    Trainer(experiment, tmp_path / "cut", World(), resume="auto").fit()
    for name in ("last", "best"):
        whole = read_checkpoint(tmp_path / "whole" / f"{name}.safetensors")
        resumed = read_checkpoint(tmp_path / "cut" / f"{name}.safetensors")
        assert resumed.meta["progress"] == whole.meta["progress"]
        assert resumed.tensors.keys() == whole.tensors.keys()
        for key, value in whole.tensors.items():
            np.testing.assert_array_equal(resumed.tensors[key], value, err_msg=key)


def test_its_checks_are_the_commands_checks(config, tmp_path):
    with pytest.raises(ConfigError, match="a sum is learned with dropout"):
        load_config(config, ["training_mode=eval"])
    with pytest.raises(ConfigError, match=r"train\.dataset\.count: more are needed"):
        Trainer(load_config(config, ["dataloader.train.dataset.count=12"]), tmp_path / "run", World())
    with pytest.raises(ConfigError, match=r"task: SumTask needs 'low'"):
        load_config(config, ["task={name: SumTask}"])
