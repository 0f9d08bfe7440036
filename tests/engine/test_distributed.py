"""Several processes on gloo: what they compute equals what one computes on the joined batch."""

import json
import signal
import socket
import subprocess
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl_sot.config import ConfigError
from passl_sot.engine.distributed import World, _send_at_once, start
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.nn.batch_norm import batch_norm, synchronize_batch_norm
from passl_sot.weights.checkpoint import read_checkpoint
from tests.engine.several_labels import write_several_labels

# Many runs in one start of the processes.
RUNS = """
import json, sys
from pathlib import Path
from passl_sot.launch.supervisor import supervise

status = supervise()
if status is not None:
    sys.exit(status)
from passl_sot.cli.command import guarded

def run():
    from passl_sot.engine import trainer
    from passl_sot.engine.distributed import start
    from passl_sot.engine.schema import load_config
    trainer.draw_run = lambda *_: None  # drawing takes a second
    job = json.loads(Path("runs.json").read_text())
    world = start("cpu", sharding=job["sharding"])
    for name, settings, more in job["runs"]:
        experiment = load_config(more.pop("config", "run.yaml"), settings)
        trainer.Trainer(experiment, Path(name), world, **more).fit()
        if world.is_main:
            print("ended:", name, flush=True)
    return 0

sys.exit(guarded(run))
"""
TRAIN_SIZE = "dataloader.train.sampler.batch_size"
QUIET = ("epochs=1", "model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0")


def test_requests_to_the_store_are_sent_at_once():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as own,
    ):
        assert not own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        _send_at_once()
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_joined_statistics_are_those_of_the_joined_batch():
    """In one process, where the sum over all processes is its own."""
    paddle.seed(3)
    x = paddle.randn([4, 3, 5, 6]) * 3 + 1
    weights = paddle.randn(x.shape)
    results = []
    for joined in (False, True):
        model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 3, 1, bias_attr=False), batch_norm(3))
        model[0].weight.set_value(paddle.eye(3).reshape([3, 3, 1, 1]) + 0.1)
        model[1].weight.set_value(paddle.to_tensor([0.5, 2.0, -1.0]))
        names = list(model.state_dict())
        if joined:
            synchronize_batch_norm(model, lambda tensor: tensor)
            assert model[1].reduce is not None
            assert list(model.state_dict()) == names
        y = model(x)
        (y * weights).sum().backward()
        model.eval()
        results.append([y, *(p.grad for p in model.parameters() if p.grad is not None)])
        results[-1] += [model[1]._mean, model[1]._variance, model(x)]
    assert len(results[0]) == 7
    for plain, joined in zip(*results, strict=True):
        np.testing.assert_allclose(joined.numpy(), plain.numpy(), rtol=1e-5, atol=2e-6)


BATCH_NORM = (*QUIET, "model.architecture.token_embed=DenseNet", "+distributed={sync_batch_norm: true}")
ACCUMULATED = (*QUIET, "lr_scheduler.reference_batch=24")
CUT = (*QUIET, "lr_scheduler.reference_batch=8")
# Frozen parameters, rates by pattern and layer, balanced epochs.
PARAMETERS = (
    *QUIET,
    "parameters.freeze=[backbone.blocks.0.*]",
    "parameters.lr_factors=[{pattern: 'backbone.*', factor: 0.5}]",
    "parameters.layer_decay=0.8",
    "dataloader.train.sampler.balanced=true",
    "seed=3",
)
SEVERAL = {"config": "several.yaml"}
TEXTS = {"config": "texts.yaml"}
# With the loss of the next token, which the task adds beside the wrapped model.
GPT = (
    "epochs=1",
    "model.architecture={name: GPT, vocab_size: 16, max_positions: 32, embed_dim: 16, depth: 2, num_heads: 2,"
    " drop_rate: 0.0, attn_drop_rate: 0.0}",
    "task={name: TextClassificationTask, score: matthews, lm_weight: 0.5}",
    "lr_scheduler.reference_batch=24",
    "lr_scheduler.warmup_epochs=0",
)
OPTIMIZERS = {name: f"optimizer={{name: {name}, weight_decay: 0.1}}" for name in ("Momentum", "Lamb")}


def students(folder: Path) -> tuple[str, ...]:
    """Repeated augmentation deals the same global batch out another way; each process has the teacher."""
    teacher = folder / "one" / "teacher"
    return (
        "epochs=1",
        "model.architecture={name: DeiT, img_size: 32, patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2,"
        " distilled: true}",
        "model.head={name: DistilledHead, num_classes: 3, in_channels: 16}",
        "+task={name: DistillationTask, kind: soft,"
        f" teacher: {{config: {teacher}/config.yaml, weights: {teacher}/best.safetensors}}}}",
        "dataloader.train.sampler.repeats=3",
    )


@pytest.fixture(scope="module")
def folder(write_experiment, write_texts, tmp_path_factory):
    """Experiments, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("distributed")
    experiment = write_experiment(folder)
    several = write_several_labels(folder)
    texts = write_texts(folder)

    def trainer(name: str, *settings: str, config: Path = experiment) -> Trainer:
        return Trainer(load_config(config, settings), folder / "one" / name, World())

    trainer("teacher", "epochs=1").fit()
    trainer("students", *students(folder), f"{TRAIN_SIZE}=24").fit()
    trainer("joined", *QUIET, f"{TRAIN_SIZE}=24").fit()
    trainer("several", "epochs=1", config=several).fit()
    trainer("texts", *GPT, f"{TRAIN_SIZE}=24", config=texts).fit()
    trainer("batch_norm", *BATCH_NORM, f"{TRAIN_SIZE}=24").fit()
    trainer("accumulated", *ACCUMULATED, f"{TRAIN_SIZE}=24").fit()
    for name, optimizer in OPTIMIZERS.items():
        trainer(name, *PARAMETERS, optimizer, f"{TRAIN_SIZE}=24").fit()
    trainer("whole", *CUT, f"{TRAIN_SIZE}=8").fit()
    cut = trainer("cut", *CUT, f"{TRAIN_SIZE}=8")

    def stop(*_):
        cut.stop.signal = signal.SIGTERM

    cut.model.register_forward_post_hook(stop)
    assert cut.fit() is None
    assert cut.progress.step == 1
    return folder


@pytest.fixture(scope="module")
def together(folder, launcher_in):
    """Starts so many processes, which do these runs, and gives their words about each."""

    def run(processes: int, *runs: tuple, sharding: int = 0) -> dict[str, str]:
        (folder / "runs.json").write_text(json.dumps({"sharding": sharding, "runs": runs}))
        (folder / "runs.py").write_text(RUNS)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 400}
        done = subprocess.run(**launcher_in(folder, processes, script=folder / "runs.py"), **pipes)
        assert done.returncode == 0, done.stdout
        parts = done.stdout.split("ended: ")
        return {name: said for (name, *_), said in zip(runs, parts, strict=False)}

    return run


@pytest.fixture(scope="module")
def two(together, folder):
    size = f"{TRAIN_SIZE}=12"
    return together(
        2,
        ("two/batch_norm", (*BATCH_NORM, size), {}),
        ("two/joined", (*QUIET, size), {}),
        ("two/students", (*students(folder), size), {}),
        ("two/several", ("epochs=1", f"{TRAIN_SIZE}=4", "dataloader.val.sampler.batch_size=3"), SEVERAL),
        ("two/texts", (*GPT, f"{TRAIN_SIZE}=12", "dataloader.val.sampler.batch_size=3"), TEXTS),
        *((f"two/{name}", (*PARAMETERS, optimizer, size), {}) for name, optimizer in OPTIMIZERS.items()),
        ("two/plain", (f"{TRAIN_SIZE}=4",), {}),
        ("one/cut", (*CUT, f"{TRAIN_SIZE}=2"), {"resume": "auto", "resume_override": [TRAIN_SIZE]}),
    )


@pytest.fixture(scope="module")
def divided(together, folder):
    """With the optimizer's state divided over the processes."""
    sharded = (f"{TRAIN_SIZE}=4", "+distributed={sharding: 1}")
    first = "divided/plain/epoch_0001.safetensors"
    return together(
        2,
        ("divided/plain", (*sharded, "checkpoint.interval=1"), {}),
        ("divided/resumed", sharded, {"resume": first}),
        *(
            (f"divided/{name}", (*PARAMETERS, optimizer, f"{TRAIN_SIZE}=12", sharded[1]), {})
            for name, optimizer in OPTIMIZERS.items()
        ),
        sharding=1,
    )


def rows_of(folder: Path, kind: str, *names: str) -> list[tuple]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [tuple(row[name] for name in names) for row in rows if row["kind"] == kind]


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(folder, two, same_update):
    one, other = (folder / size / "joined" for size in ("one", "two"))
    same_update(one / "last.safetensors", other / "last.safetensors")
    for kind in ("val_raw", "val_ema"):
        scores = rows_of(other, kind, "top1", "images")
        # Nine images over two processes: each is counted once.
        assert scores == rows_of(one, kind, "top1", "images") and [n for _, n in scores] == [9]
    # What is logged is the mean over both, not the first one's.
    losses = rows_of(other, "train", "loss")
    np.testing.assert_allclose(losses, rows_of(one, "train", "loss"), rtol=1e-5)


@pytest.mark.slow
def test_texts_in_two_processes_equal_one(folder, two, same_update):
    one, other = (folder / size / "texts" for size in ("one", "two"))
    same_update(one / "last.safetensors", other / "last.safetensors")
    names = ("matthews", "accuracy", "sentences")
    assert rows_of(other, "val_raw", *names) == rows_of(one, "val_raw", *names)
    assert rows_of(other, "val_raw", "sentences") == [(9,)]
    # Tokens are those of both processes; each pads its own part of the batch.
    per_text = [
        row["tokens_per_s"] / row["sentences_per_s"]
        for path in (one, other)
        for row in read_metrics(path / "metrics.jsonl")
        if row["kind"] == "train"
    ]
    assert per_text[0] == pytest.approx(per_text[1])
    losses = rows_of(other, "train", "loss", "lm_loss")
    np.testing.assert_allclose(losses, rows_of(one, "train", "loss", "lm_loss"), rtol=1e-5)


@pytest.mark.slow
def test_students_and_copies_in_two_processes_equal_one(folder, two, same_update):
    same_update(*(folder / size / "students" / "last.safetensors" for size in ("one", "two")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["val_raw", "val_ema"])
def test_several_labels_are_scored_over_all_processes(folder, two, kind):
    """Each has other images; the mean average precision is that of all."""
    (one,), (other,) = (
        rows_of(folder / size / "several", kind, "images", "map", "loss") for size in ("one", "two")
    )
    assert other[0] == one[0] == 16
    assert other[1] == pytest.approx(one[1], abs=8) and other[2] == pytest.approx(one[2], rel=0.1)


@pytest.mark.slow
def test_synchronized_batch_norm_in_two_processes_equals_one(folder, two, same_update):
    paths = [folder / size / "batch_norm" / "last.safetensors" for size in ("one", "two")]
    same_update(*paths, kinds=("model",), atol=1e-6)
    a, b = (read_checkpoint(path).part("model") for path in paths)
    statistics = [name for name in a if name.endswith(("_mean", "_variance"))]
    assert len(statistics) > 2
    for name in statistics:
        np.testing.assert_allclose(b[name], a[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_three_processes_that_accumulate_equal_one(folder, together, same_update):
    settings = (*ACCUMULATED, f"{TRAIN_SIZE}=4", "dataloader.val.sampler.batch_size=2")
    said = together(3, ("three", settings, {}))
    assert "4 per device x 3 device(s) x 2 accumulated = 24" in said["three"]
    folders = (folder / "one" / "accumulated", folder / "three")
    same_update(*(path / "last.safetensors" for path in folders), kinds=("model",), atol=1e-6)
    one, three = (
        [(r["kind"], r["top1"], r["images"]) for r in read_metrics(path / "metrics.jsonl") if "top1" in r]
        for path in folders
    )
    assert one == three
    assert {images for _, _, images in three} == {9}


@pytest.mark.slow
def test_sharding_equals_plain_and_resumes(folder, two, divided):
    """The checkpoint holds the whole optimizer, so plain runs can go on with it as well."""
    assert "resuming from" in divided["divided/resumed"]
    a = read_checkpoint(folder / "two" / "plain" / "last.safetensors").tensors
    for path in ("plain/epoch_0002", "plain/last", "resumed/last"):
        b = read_checkpoint(folder / "divided" / f"{path}.safetensors").tensors
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(b[name], a[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameter_groups_in_two_processes_equal_those_in_one(folder, two, divided, optimizer):
    """Plain and with the state divided."""
    one = read_checkpoint(folder / "one" / optimizer / "last.safetensors").part("model")
    for name in ("two", "divided"):
        other = read_checkpoint(folder / name / optimizer / "last.safetensors").part("model")
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=0, atol=2e-6, err_msg=f"{name} {key}")


@pytest.mark.slow
def test_resuming_in_another_number_of_processes(folder, two):
    """Stopped after one of three updates in one process; two then read the images that are left."""
    assert "epoch 1, batch 2, 1 updates" in two["one/cut"]
    a, b = (read_checkpoint(folder / "one" / name / "last.safetensors") for name in ("whole", "cut"))
    assert b.meta["progress"]["step"] == a.meta["progress"]["step"] == 3
    for name, value in a.part("optimizer").items():
        np.testing.assert_allclose(b.part("optimizer")[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("stage", [2, 3])
def test_sharding_that_paddle_has_for_gpus_alone(stage):
    with pytest.raises(ConfigError, match=f"distributed.sharding: stage {stage} works on GPUs only"):
        start("cpu", sharding=stage)


def test_gradients_are_exchanged_once_an_update():
    class Wrapped:
        held = 0

        def no_sync(self):
            self.held += 1
            return nullcontext()

    model, world = Wrapped(), World(size=2)
    for more in (True, True, False):
        with world.accumulating(model, more):
            pass
    assert model.held == 2
