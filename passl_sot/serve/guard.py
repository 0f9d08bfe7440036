"""What stands before all answers: who is let in, how much and for how long, and what is counted.

A bare ASGI wrapper, as Starlette's own middleware answers a wrong Host in plain text, knows no limit of a
body's size or time, and doesn't see what fails in the application.
"""

import asyncio
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from passl_sot.serve.errors import CLIENT_LEFT, ApiError, error_response
from passl_sot.serve.metrics import Metrics
from passl_sot.serve.settings import Settings

PATHS = ("/", "/predict", "/explain", "/model", "/health", "/ready", "/metrics", "/openapi.json")
# Names of the loopback. Other names that lead here are a foreign page's trick (DNS rebinding).
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Wraps an application.

    Attributes:
        running: Requests being answered.
        draining: Whether the server is about to end, and takes no new work.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics):
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._held = 0
        self.running = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        status = CLIENT_LEFT

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        body = _Body(self, receive, began + self._settings.timeout)
        self.running += 1
        try:
            scope.setdefault("state", {})["deadline"] = body.deadline
            fault = self._fault(dict(scope["headers"]))
            if fault:
                await error_response(fault)(scope, receive, answer)
            else:
                await self._app(scope, body.receive, answer)
        finally:
            self.running -= 1
            self._held -= body.size
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(loop.time() - began)

    def _fault(self, headers: dict[bytes, bytes]) -> ApiError | None:
        """What a request's head tells against it."""
        hosts = self._settings.hosts
        host = headers.get(b"host", b"").decode("latin-1")
        if hosts and _name(host) not in hosts:
            message = f"this server isn't called {host!r}: start it with --allow-host, if that is its name"
            return ApiError(400, "wrong_host", message)
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy before this may count the other one, and take the rest for another client's request.
            message = "Content-Length and Transfer-Encoding contradict each other"
            return ApiError(400, "bad_request", message, {"Connection": "close"})
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self._most:
            return self._too_large()
        return None

    @property
    def _most(self) -> float:
        return self._settings.max_request_mb * 1e6

    def _too_large(self) -> ApiError:
        message = f"a request may have {self._settings.max_request_mb:g} MB"
        return ApiError(413, "request_too_large", message)

    def hold(self, size: int, more: int) -> None:
        """Counts `more` bytes to a request, `size` with them; an ApiError if it, or all, get too large."""
        self._held += more
        if size > self._most:
            raise self._too_large()
        if self._held > self._settings.max_held_mb * 1e6:
            message = f"all requests together have over {self._settings.max_held_mb:g} MB: try again later"
            raise ApiError(429, "overloaded", message, {"Retry-After": "1"})


class _Body:
    """What is received of one request, counted and timed whatever its Content-Length says."""

    def __init__(self, guard: Guard, receive: Receive, deadline: float):
        self._guard = guard
        self._receive = receive
        self._whole = False
        self.deadline = deadline
        self.size = 0

    async def receive(self) -> Message:
        """The next message; an ApiError where it takes too long or is too much."""
        if self._whole:
            return await self._receive()  # which waits until the client leaves
        left = self.deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            # Who sends a byte a minute would keep the connection for ever.
            close = {"Connection": "close"}
            raise ApiError(408, "request_timeout", "the request didn't arrive in time", close) from None
        self._whole = not message.get("more_body")
        more = len(message.get("body", b""))
        self.size += more
        self._guard.hold(self.size, more)
        return message


def _name(host: str) -> str | None:
    """The name in a Host header, without the port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
