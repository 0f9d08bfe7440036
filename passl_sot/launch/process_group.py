"""Checks before the processes of a run connect, and the advice where they can't."""

import errno
import faulthandler
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from passl_sot.config import ConfigError, Fault, UserError, zh
from passl_sot.launch.supervisor import NOT_JOINED, report_failure, withdraw_report

_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface
JOIN_LIMIT = 120.0  # seconds; Paddle itself would wait for a quarter of an hour


class JoinError(UserError, RuntimeError):
    """The processes of a run didn't find each other."""


class RefusedError(JoinError):
    """Paddle reported an error while they connected; another attempt may succeed."""

    status = NOT_JOINED


def check_gpu(selected: str, count: int) -> int:
    """The number of this process's GPU, first of the launcher's `FLAGS_selected_gpus`.

    Raises:
        ConfigError: Paddle sees only `count` GPUs.
    """
    number = int(selected.split(",")[0])
    if number >= count:
        message = (
            f"this process is to use GPU {number}, and Paddle sees {count} (numbers 0 to {count - 1}): start "
            "fewer processes or name others by the launcher's --devices, and look at CUDA_VISIBLE_DEVICES"
        )
        raise ConfigError([Fault("device", message)])
    return number


def choose_network(address: str) -> None:
    """Has gloo use the network that this process's IPv4 address is on; by itself it may take the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(answer[20:24]) == address:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


@contextmanager
def joining(rank: int, size: int, master: str, limit: float) -> Iterator[None]:
    """A block in which processes connect for the first time; in `limit` seconds it ends or the process does.

    Raises:
        JoinError: The port is taken.
        RefusedError: Paddle reported an error.
    """
    advice = (
        f"process {rank} of {size} could not join the others at {master}. Have all been started? Between "
        "machines: --master must be an address of the first that the others reach, no firewall may keep them "
        "apart, and where a machine has several networks, the launcher's --host tells its address on the "
        "right one" + zh("processes_apart")
    )
    if rank == 0 and master:
        _check_port(master)
    # Paddle holds Python's lock while it connects: nothing written in Python could end it, or say why later.
    report_failure(f"error: within {limit:.0f} s {advice}")
    faulthandler.dump_traceback_later(limit, exit=True)
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise RefusedError(f"{advice}\nPaddle says: {error}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
        withdraw_report()


def _check_port(master: str) -> None:
    """Paddle aborts (SIGABRT) where another program listens on its port already."""
    host, _, port = master.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) >= 2**16:
        raise JoinError(f"the environment variable PADDLE_MASTER is {master!r}, and must be HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return
    raise JoinError(
        f"process 0 can't listen on {master} ({os.strerror(errno.EADDRINUSE)}): start again, and the "
        "launcher takes another free port, or name this machine's address by the launcher's --host"
        + zh("port_taken")
    )
