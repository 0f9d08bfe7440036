"""Processes: everything that calls Paddle's collectives is in this file.

On CPU the processes talk through gloo, whose collectives die after 30 s of waiting for another rank; work
that only the main process does is therefore awaited through the key-value store, which has no such limit.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import fleet
from tqdm import tqdm

from passl_sot.utils.config import ConfigError, Fault


@dataclass
class World:
    """The processes of a run; `size` 1 needs no launcher and makes every method a no-op."""

    rank: int = 0
    size: int = 1
    _waits: int = field(default=0, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum of `array` (int64 or float64, one shape everywhere) over all processes, on each of them."""
        if self.size == 1:
            return array
        tensor = paddle.to_tensor(array)
        dist.all_reduce(tensor)
        return tensor.numpy()

    def wait_for_main(self) -> None:
        """Other processes wait here, without a time limit, until the main process has come by."""
        if self.size == 1:
            return
        self._waits += 1
        key = f"passl_sot/wait/{self._waits}"
        store = paddle.base.core.create_or_get_global_tcp_store()
        if self.is_main:
            store.set(key, b"1")
        else:
            store.wait(key)

    def broadcast_statistics(self, model: paddle.nn.Layer) -> None:
        """Gives every process the main one's BatchNorm statistics, so that all evaluate one model."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            if tensor.stop_gradient:
                dist.broadcast(tensor, src=0)

    def bar(self, **options: object) -> tqdm:
        """A progress bar, drawn by the main process only.

        Under the launcher, which shows a process's output line by line, it is a line every 5 seconds.
        """
        interval = 0.1 if self.size == 1 else 5.0
        disabled = not self.is_main
        return tqdm(disable=disabled, mininterval=interval, leave=False, dynamic_ncols=True, **options)

    def distribute(self, model: paddle.nn.Layer, optimizer) -> tuple:
        """Wraps model and optimiser by fleet; gradients are then averaged over the processes."""
        if self.size == 1:
            return model, optimizer
        return fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)

    def accumulating(self, model: paddle.nn.Layer, more: bool) -> AbstractContextManager:
        """Holds back the gradient exchange while `more` batches of the same update follow."""
        return model.no_sync() if self.size > 1 and more else nullcontext()


def start(device: str) -> World:
    """Chooses the device and joins the processes that `python -m paddle.distributed.launch` started.

    Args:
        device: "auto", "cpu" or "gpu".

    Raises:
        ConfigError: A GPU was asked for and this Paddle has none.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "gpu" and not has_gpu:
        message = (
            "device is 'gpu' but Paddle sees none: install paddlepaddle-gpu (requirements-gpu.txt) on a "
            "machine with a GPU, or write device: auto"
        )
        raise ConfigError([Fault("device", message)])
    size = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if device == "cpu" or not has_gpu:
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"  # else a set CUDA_VISIBLE_DEVICES misleads Paddle
        paddle.set_device("cpu")
    else:
        paddle.set_device(f"gpu:{os.environ.get('FLAGS_selected_gpus', '0').split(',')[0]}")
    if size == 1:
        return World()
    fleet.init(is_collective=True)
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def format_duration(seconds: float) -> str:
    """`h:mm:ss`, or `d days, h:mm:ss`."""
    return str(timedelta(seconds=round(max(0.0, seconds))))
