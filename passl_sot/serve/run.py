"""Starts and ends the server: one process, or several that share the port.

Several are uvicorn's: each inherits the listening socket, and one that dies is replaced.
"""

import functools
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from prometheus_client import multiprocess
from starlette.exceptions import HTTPException
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from passl_sot.config import UserError, zh
from passl_sot.serve.errors import error_response
from passl_sot.serve.guard import Guard
from passl_sot.serve.metrics import FOLDER
from passl_sot.serve.settings import Settings
from passl_sot.utils.logger import RESULT, get_logger, hush_paddle

log = get_logger()
_GRACE = 5  # seconds for answers to reach their clients at the end


def serve(settings: Settings, *, verbose: bool = False) -> int:
    """Serves until SIGTERM or SIGINT; gives the status to end with.

    Raises:
        UserError: The port or the model can't be had.
    """
    listener = _listener(settings)
    log.info("loading %s", settings.source)
    if settings.workers > 1:
        return _serve_by_several(settings, listener, verbose)
    app = _service(settings)
    server = uvicorn.Server(_config(app, settings, verbose))
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends by raising the signal again, for the handler of before: it shall be a good end.
        signal.signal(number, lambda *_: None)
    _announce(settings, listener)
    server.run([listener])
    return 0


def _service(settings: Settings) -> Guard:
    from passl_sot.serve.app import Service  # with Paddle, which the parent of several doesn't need

    # Each faulty request would leave a line of them; the answer says it, and the metrics count it.
    for name in ("python_multipart", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return Service(settings).asgi


def _worker(settings: Settings, *, again: bool) -> Guard:
    """The application in one of several processes.

    Where the model can't be loaded, the first ends the server. Others (`again`) try until it can be: it may
    be on its way to its place, and meanwhile those that have one go on.
    """
    hush_paddle()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if again:
        _set_signals(dict.fromkeys(handlers, signal.SIG_DFL))  # uvicorn's would wait for the model
    import passl_sot.predict  # noqa: F401

    # In their place Paddle has put its own, of which Python doesn't know: it prints a stack.
    _set_signals(dict.fromkeys(handlers, signal.SIG_DFL) if again else handlers)
    service = None
    said = ""
    while service is None:
        try:
            service = _service(settings)
        except (UserError, OSError) as error:
            if str(error) != said:
                said = str(error)
                sys.stderr.write(f"error: {said}\n")
            if not again:
                sys.exit(STARTUP_FAILURE)
            time.sleep(1)
    _set_signals(handlers)
    return service


def _set_signals(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _serve_by_several(settings: Settings, listener: socket.socket, verbose: bool) -> int:
    first, others = (
        _config(functools.partial(_worker, settings, again=again), settings, verbose)
        for again in (False, True)
    )
    with tempfile.TemporaryDirectory(prefix="passl_sot_metrics_") as folder:
        os.environ[FOLDER] = folder
        workers = _Workers(first, others, listener, functools.partial(_announce, settings, listener))
        workers.run()
    return 2 * workers.failed


def _config(app, settings: Settings, verbose: bool) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=functools.partial(_Protocol, seconds=settings.timeout),  # type: ignore[arg-type]  # a maker of them
        ws="none",
        factory=settings.workers > 1,
        workers=settings.workers,
        log_config=uvicorn.config.LOGGING_CONFIG if verbose else None,
        log_level="info" if verbose else "error",
        access_log=verbose,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        # A worker that imports Paddle on a loaded machine is silent for a while.
        timeout_worker_healthcheck=60,
    )


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    address = (settings.host, settings.port)
    try:
        listener = socket.create_server(address, family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        if isinstance(error, socket.gaierror):  # whose numbers are others
            reason = str(error.strerror)
        raise UserError(
            f"can't listen on {settings.host}, port {settings.port} ({reason}): choose another by --host or "
            "--port" + zh("port_taken")
        ) from error
    listener.set_inheritable(True)
    return listener


def _announce(settings: Settings, listener: socket.socket) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.log(RESULT, "serving %s at http://%s:%d", settings.source, host, listener.getsockname()[1])


class _Worker(Process):
    """One that ends by itself, where uvicorn's dies of the signal and leaves semaphores behind."""

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn raises the signal again when all is answered, for this handler.
            signal.signal(number, lambda *_: sys.exit(0))
        super().target(sockets)


class _Workers(Multiprocess):
    """uvicorn's processes, which exchange their models by themselves rather than be exchanged."""

    def __init__(
        self,
        first: uvicorn.Config,
        others: uvicorn.Config,
        listener: socket.socket,
        announce: Callable[[], None],
    ):
        super().__init__(first, [listener])
        self._others = others
        self._announce = announce
        self.failed = False

    def init_processes(self) -> None:
        # The first alone: what it can't do none can, and what it measures or compiles the others find.
        first = _Worker(self.config, self.sockets)
        first.start()
        self.processes.append(first)
        while not first.wait_until_ready(1):
            self.handle_signals()
            self.failed = first.exitcode is not None
            if self.failed or self.should_exit.is_set():
                self.should_exit.set()
                return
        self.config = self._others
        for _ in range(self.processes_num - 1):
            process = _Worker(self.config, self.sockets)
            process.start()
            self.processes.append(process)
        self._announce()

    def keep_subprocess_alive(self) -> None:
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            multiprocess.mark_process_dead(pid)  # its queue counts no longer

    def handle_hup(self) -> None:
        for process in self.processes:
            # One that is still starting would die of it, and loads the newest model anyway.
            if process.process.is_alive() and process.is_ready(1) and process.pid:
                os.kill(process.pid, signal.SIGHUP)


class _Protocol(H11Protocol):
    """Adds what uvicorn lacks: JSON for what is no HTTP, and an end to connections that are stuck.

    Those send nothing, a byte now and then, or don't read their answer. A request is answered within the
    limit of time, so one that is there at two looks, which are further apart, is stuck; so is who has sent
    no other.
    """

    def __init__(self, *args, seconds: float, **options):
        super().__init__(*args, **options)
        self._seconds = seconds + 1

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.loop.call_later(self._seconds, self._look, None)

    def _look(self, before) -> None:
        if self not in self.connections:
            return
        if self.cycle is before:
            self.transport.abort()
        else:
            self.loop.call_later(self._seconds, self._look, self.cycle)

    def send_400_response(self, msg: str) -> None:
        body = bytes(error_response(HTTPException(400, msg)).body)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()
