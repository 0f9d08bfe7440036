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
    from passl_sot.engine.distributed import start
    from passl_sot.engine.schema import load_config
    from passl_sot.engine.trainer import Trainer
    job = json.loads(Path("runs.json").read_text())
    world = start("cpu", sharding=job["sharding"])
    for name, settings, more in job["runs"]:
        Trainer(load_config("run.yaml", settings), Path(name), world, **more).fit()
        if world.is_main:
            print("ended:", name, flush=True)
    return 0

sys.exit(guarded(run))
"""
TRAIN_SIZE = "dataloader.train.sampler.batch_size"
QUIET = ("epochs=1", "model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0")


def same_update(first: Path, second: Path) -> None:
    """One update from the same start: gradients, by Adam's first moment, and what became of the weights."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    assert one.meta["progress"]["step"] == two.meta["progress"]["step"] == 1
    assert one.tensors.keys() == two.tensors.keys()
    moments = {name: m for name, m in one.part("optimizer").items() if "moment1" in name}
    assert len(moments) > 20
    for name, moment in moments.items():
        np.testing.assert_allclose(two.part("optimizer")[name], moment, rtol=1e-4, atol=1e-6, err_msg=name)
        weight = name.split("|")[0]
        certain = np.abs(moment) > 1e-5  # Adam divides by the size: without one, it follows rounding errors
        a, b = (saved.part("model")[weight][certain] for saved in (one, two))
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6, err_msg=weight)


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
OPTIMIZERS = {name: f"optimizer={{name: {name}, weight_decay: 0.1}}" for name in ("Momentum", "Lamb")}


@pytest.fixture(scope="module")
def folder(write_experiment, tmp_path_factory):
    """An experiment, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("distributed")
    experiment = write_experiment(folder)

    def trainer(name: str, *settings: str) -> Trainer:
        return Trainer(load_config(experiment, settings), folder / "one" / name, World())

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


@pytest.mark.slow
def test_synchronized_batch_norm_in_two_processes_equals_one(folder, two):
    paths = [folder / size / "batch_norm" / "last.safetensors" for size in ("one", "two")]
    same_update(*paths)
    a, b = (read_checkpoint(path).part("model") for path in paths)
    statistics = [name for name in a if name.endswith(("_mean", "_variance"))]
    assert len(statistics) > 2
    for name in statistics:
        np.testing.assert_allclose(b[name], a[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_three_processes_that_accumulate_equal_one(folder, together):
    settings = (*ACCUMULATED, f"{TRAIN_SIZE}=4", "dataloader.val.sampler.batch_size=2")
    said = together(3, ("three", settings, {}))
    assert "4 per device x 3 device(s) x 2 accumulated = 24" in said["three"]
    folders = (folder / "one" / "accumulated", folder / "three")
    same_update(*(path / "last.safetensors" for path in folders))
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
