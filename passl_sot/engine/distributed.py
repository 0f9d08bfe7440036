"""Processes: everything that calls Paddle's collectives is in this file.

On CPU the processes talk through gloo, whose collectives die after 30 s of waiting for another rank. The work
of one process (reading data, writing checkpoints) may take longer, so all wait for each other through the
key-value store, which has no such limit, before each batch, and before collectives to which one may be late.
"""

import io
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

from passl_sot.config import ConfigError, Fault, zh
from passl_sot.launch.process_group import JOIN_LIMIT, JoinError, check_gpu, choose_network, joining
from passl_sot.nn.batch_norm import synchronize_batch_norm
from passl_sot.utils.environment import launcher_number
from passl_sot.utils.logger import get_logger, progress_bar

# Seconds: between two signs of life of a process, and without one until the others give it up.
_ALIVE = 5.0
_SILENT = 60.0


def _all_reduce(tensor: paddle.Tensor) -> paddle.Tensor:
    try:
        dist.all_reduce(tensor)
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        raise RuntimeError("another process is gone; the log on its machine has the cause") from error
    return tensor


@dataclass
class World:
    """The processes of a run, on so many machines; `size` 1 needs no launcher and makes methods no-ops."""

    rank: int = 0
    size: int = 1
    machines: int = 1
    gloo: bool = False
    sharding: int = 0
    _meetings: int = 0
    _asked: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, array: np.ndarray, *, met: bool = False) -> np.ndarray:
        """Sum of `array` (int64 or float64, one shape everywhere) over all processes, on each of them.

        `met`: all are known to be here, as they have just exchanged something else.
        """
        if self.size == 1:
            return array
        if not met:
            self.barrier()
        return _all_reduce(paddle.to_tensor(array)).numpy()

    def mean(self, figures: dict[str, float]) -> dict[str, float]:
        """The mean over all processes of each figure, on each of them; names are the same everywhere."""
        sums = self.sum(np.array(list(figures.values()), np.float64))
        return dict(zip(figures, (sums / self.size).tolist(), strict=True))

    def wait_for_all(self) -> None:
        """Processes wait here, without a time limit, until all have come."""
        if self.size == 1:
            return
        self._meetings += 1
        wanted = self._meetings * self.size
        if _add("passl_sot/meeting", 1) < wanted:
            self._wait(lambda: _add("passl_sot/meeting", 0) >= wanted)

    def any_rank(self, here: bool) -> bool:
        """Whether this was called with True on any process so far; nobody waits for the others."""
        if self.size == 1 or self._asked:
            return self._asked or here
        self._asked = _add("passl_sot/asked", int(here)) > 0
        return self._asked

    def gather_objects(self, value: Any) -> list:
        """The values of all processes, by rank, on each of them."""
        if self.size == 1:
            return [value]
        self.barrier()
        values: list = []
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """On gloo, as `wait_for_all`."""
        if self.gloo:
            self.wait_for_all()

    def synchronized(self, batches: Iterable[dict]) -> Iterator[dict]:
        """Gives training batches, of which every process has as many, when all processes have theirs."""
        for batch in batches:
            self.barrier()
            yield batch

    def broadcast_statistics(self, model: paddle.nn.Layer) -> None:
        """Gives every process the main one's BatchNorm statistics, so that all evaluate one model."""
        if self.size == 1:
            return
        self.barrier()
        for tensor in model.state_dict().values():
            if tensor.stop_gradient:
                dist.broadcast(tensor, src=0)

    def bar(self, **options: Any) -> AbstractContextManager:
        """A progress bar for a `with` block, drawn by the main process only."""
        return progress_bar(shown=self.is_main, **options)

    def distribute(self, model: paddle.nn.Layer, optimizer) -> tuple:
        """Wraps model and optimizer; gradients are then averaged over the processes."""
        if self.size == 1:
            return model, optimizer
        self.barrier()
        if self.sharding > 1:  # never run: Paddle has it for GPUs alone
            level = {2: "os_g", 3: "p_g_os"}[self.sharding]
            return dist.sharding.group_sharded_parallel(model, optimizer, level)[:2]
        if self.sharding == 1:
            # Every process still gets the whole gradient, so its norm, clipping and the skipping of updates
            # are the same; its optimizer updates a part of the parameters and alone keeps their state.
            return paddle.DataParallel(model), fleet.distributed_optimizer(optimizer)
        if not self.gloo:
            return paddle.DataParallel(model), optimizer
        # In one piece, at the end of the backward pass: gloo sums on the same cores, so nothing is gained by
        # an earlier start, and for each piece the processes wait for each other.
        whole = 1 + sum(int(p.size) for p in model.parameters()) * 8 // 2**20  # MB, in float64 too
        return paddle.DataParallel(model, comm_buffer_size=whole, last_comm_buffer_size=whole), optimizer

    def synchronize_batch_norm(self, model: paddle.nn.Layer) -> None:
        """Has BatchNorm layers take their statistics from the batches of all processes."""
        if self.size > 1:
            synchronize_batch_norm(model, _all_reduce)  # never run on GPUs

    def gather_dict(self, arrays: Callable[[], dict]) -> dict:
        """`arrays()` of the main process; with sharding, of all processes together."""
        if self.size == 1 or not self.sharding:
            return arrays() if self.is_main else {}
        return {name: array for part in self.gather_objects(arrays()) for name, array in part.items()}

    def accumulating(self, model: paddle.nn.Layer, more: bool) -> AbstractContextManager:
        """Holds back the gradient exchange while `more` batches of the same update follow."""
        return model.no_sync() if self.size > 1 and more else nullcontext()

    def _wait(self, done: Callable[[], bool]) -> None:
        """Asks until it is so: soon again at first, then later and later, so that little time is lost.

        Raises:
            RuntimeError: A process has fallen silent. On one machine the supervisors notice before.
        """
        heard = None
        began = asked = time.monotonic()
        while not done():
            # Most waits are short. At most a twentieth of one is lost here, and never more than 50 ms.
            time.sleep(min(max(0.05 * (time.monotonic() - began), 1e-4), 0.05))
            if self.machines > 1 and time.monotonic() - asked > _SILENT:
                asked = time.monotonic()
                counts = [_add(f"passl_sot/alive/{rank}", 0) for rank in range(self.size)]
                for rank, count in enumerate(counts):
                    if heard and heard[rank] == count:
                        raise RuntimeError(f"process {rank} is gone; the log on its machine has the cause")
                heard = counts


def _add(key: str, more: int) -> int:
    """Adds to a number in the store that all processes share; the new number."""
    # A signal's arrival would end the store's reading of a socket with an error; it can wait a millisecond.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
    try:
        return paddle.base.core.create_or_get_global_tcp_store().add(key, more)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send_at_once() -> None:
    """Turns off Nagle's algorithm on this process's TCP connections, of which the store's needs it.

    Paddle writes a request to the store in several small pieces. Each but the first would wait until the
    receiver has acknowledged the one before, which it delays: 44 ms for an addition, 0.06 ms without.
    """
    for name in os.listdir("/proc/self/fd"):
        # An OSError: it is no TCP connection, or closed by now.
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _keep_alive(rank: int, master: str) -> None:
    """Counts this process's signs of life in the store, until it ends."""
    host, port = master.rsplit(":", 1)
    # A connection of the thread's own: the other one is not made for two threads at once.
    store = paddle.base.core.TCPStore(host, int(port), False, 0)

    def count() -> None:
        with suppress(RuntimeError, ValueError):  # process 0 has left, and its store with it
            while True:
                store.add(f"passl_sot/alive/{rank}", 1)
                time.sleep(_ALIVE)

    threading.Thread(target=count, daemon=True).start()


def start(device: str, *, sharding: int = 0, limit: float = JOIN_LIMIT) -> World:
    """Chooses the device and joins the processes that `python -m paddle.distributed.launch` started.

    `device` is "auto", "cpu" or "gpu"; all must have joined within `limit` seconds.

    Raises:
        ConfigError: A GPU was asked for and this Paddle has none, or not so many; or sharding it can't do.
        JoinError: The processes didn't find each other.
    """
    gloo = _choose_device(device)
    if gloo and sharding > 1:
        message = (
            f"stage {sharding} works on GPUs only, Paddle has none of it for CPUs: write sharding: 1, which "
            "divides the optimiser's state, or 0" + zh("sharding_cpu")
        )
        raise ConfigError([Fault("distributed.sharding", message)])
    environment = os.environ
    size = launcher_number("PADDLE_TRAINERS_NUM", 1)
    if size == 1:
        launcher_number("PADDLE_TRAINER_ID", 0, least=0)  # Paddle reads it all the same
        return World()
    rank = launcher_number("PADDLE_TRAINER_ID", least=0, most=size - 1)
    machines = launcher_number("PADDLE_NNODES", 1)
    if gloo:
        choose_network(environment.get("PADDLE_CURRENT_ENDPOINT", "").rsplit(":", 1)[0])
    master = environment.get("PADDLE_MASTER", "")
    # It lists the CPU settings as "Modified FLAGS detected".
    verbose = get_logger().isEnabledFor(logging.DEBUG)
    with joining(rank, size, master, limit):
        with nullcontext() if verbose else redirect_stderr(io.StringIO()):
            # One group, where fleet would make two: the second looks for its members' addresses under the
            # keys of the first, and a process that is ahead finds the old ones, of ports that are closed.
            dist.init_parallel_env()
            if sharding == 1:
                strategy = fleet.DistributedStrategy()
                degrees = {"dp_degree": 1, "mp_degree": 1, "pp_degree": 1, "sharding_degree": size}
                strategy.hybrid_configs = degrees
                fleet.init(is_collective=True, strategy=strategy)
        ones = _all_reduce(paddle.ones([1]))
    # A wrong sum here would be wrong gradients later.
    if ones.item() != size:
        raise JoinError(f"{size} processes were started and the sum of a one from each is {ones.item():g}")
    _send_at_once()
    if machines > 1:
        _keep_alive(rank, master)
    return World(rank=rank, size=size, machines=machines, gloo=gloo, sharding=sharding)


def _choose_device(device: str) -> bool:
    """Sets Paddle's device; whether processes talk through gloo there."""
    count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device == "gpu" and not count:
        message = (
            "device is 'gpu' but Paddle sees none: install paddlepaddle-gpu (requirements-gpu.txt) on a "
            "machine with a GPU, or write device: auto"
        )
        raise ConfigError([Fault("device", message)])
    gloo = device == "cpu" or not count
    if gloo:
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"  # else a set CUDA_VISIBLE_DEVICES misleads Paddle
        paddle.set_device("cpu")
    else:
        paddle.set_device(f"gpu:{check_gpu(os.environ.get('FLAGS_selected_gpus', '0'), count)}")
    return gloo
