"""How much faster several processes train than one, at the same global batch, on this machine.

Whole updates of real runs are timed. Beside them stand as many separate runs at a process's own batch: what
the machine itself can give, whose cores share memory and caches. All take turns, update by update.
"""

import json
import logging
import os
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from paddle.distributed.utils.launch_utils import find_free_ports

from passl_sot.config import UserError
from passl_sot.engine.distributed import start
from passl_sot.engine.schema import Experiment, load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.utils.logger import get_logger
from passl_sot.utils.peer import Peer

_WARM = 3  # updates before the first that counts
_SETTINGS = (
    "epochs=1000",
    "eval_interval=1000",
    "lr_scheduler.reference_batch=null",
    "log.visualdl=false",
)


def measure_processes(
    experiment: Experiment, *, processes: int, batch: int, repeats: int = 10
) -> dict[str, float]:
    """Times `repeats` updates of one process, of `processes` together, and of as many that are separate.

    Args:
        experiment: The experiment; its training set must exist.
        batch: Items of an update, over all processes.

    Returns:
        Median seconds of an update of each; the ratio of one to several, that of one to separate ones (each
        with its part of the batch), and the first over the second.

    Raises:
        PeerError: A run failed; its own message says why.
    """
    names = {
        "one (s)": [("one", batch, {})],
        f"{processes} together (s)": [
            (f"rank{rank}", batch // processes, place) for rank, place in enumerate(_places(processes))
        ],
        f"{processes} separate (s)": [(f"own{n}", batch // processes, {}) for n in range(processes)],
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    with (
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
        ThreadPoolExecutor(max(1, processes)) as threads,
    ):
        config = Path(folder, "run.yaml")
        config.write_text(experiment.dump(), encoding="utf-8")

        def begin(run: tuple) -> Peer:
            name, size, place = run
            # Ranks write into one folder, as they do in training.
            where = Path(folder, "together" if place else name)
            words = [config, where, *_SETTINGS, f"dataloader.train.sampler.batch_size={size}"]
            variables = [f"{key}={value}" for key, value in place.items()]
            module = [sys.executable, "-m", "passl_sot.bench.processes"]
            return Peer(shlex.join(map(str, ["env", *variables, *module, *words])))

        groups = {}
        for name, runs in names.items():
            # All at once: those that work together wait for each other.
            groups[name] = list(threads.map(begin, runs))
            for peer in groups[name]:
                stack.enter_context(peer)
        for _ in range(repeats):
            for name, peers in groups.items():
                times[name].append(max(threads.map(Peer.run, peers)))
    result = {name: statistics.median(values) for name, values in times.items()}
    one, together, separate = result.values()
    result["ratio to one"] = one / together
    result["limit: ratio of separate ones"] = one / separate
    result["of that limit"] = separate / together
    return result


def _places(processes: int) -> list[dict[str, str]]:
    """What Paddle's launcher tells each of so many processes on one machine."""
    master, *ends = [f"127.0.0.1:{port}" for port in find_free_ports(processes + 1)]
    shared = {
        "PADDLE_MASTER": master,
        "PADDLE_TRAINERS_NUM": str(processes),
        "PADDLE_LOCAL_SIZE": str(processes),
        "PADDLE_NNODES": "1",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
    }
    return [
        {**shared, "PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": end}
        for rank, end in enumerate(ends)
    ]


def _train() -> None:
    """Trains, as a `Peer` whose batches are updates."""
    config, folder, *overrides = sys.argv[1:]
    get_logger().setLevel(logging.WARNING)  # no line of the run may stand among its answers
    experiment = load_config(config, overrides)
    trainer = Trainer(experiment, Path(folder), start(experiment.device))
    update = trainer._update
    done = 0
    began = 0.0

    def paced(*args: object) -> tuple[float, int]:
        nonlocal done, began
        result = update(*args)
        done += 1
        if done >= _WARM:
            sys.stdout.write("ready\n" if done == _WARM else f"{json.dumps(time.perf_counter() - began)}\n")
            sys.stdout.flush()
            if not sys.stdin.readline():
                os._exit(0)  # nothing of this run is kept
        began = time.perf_counter()
        return result

    trainer._update = paced
    trainer.fit()


if __name__ == "__main__":
    try:
        _train()
    except UserError as error:
        sys.exit(f"error: {error}")
