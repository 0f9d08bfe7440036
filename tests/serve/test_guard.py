"""The limit of all requests together, which needs two that are held at one time."""

import asyncio
import json

import pytest

from passl_sot.serve.errors import ApiError, error_response
from passl_sot.serve.guard import Guard
from passl_sot.serve.metrics import Metrics
from passl_sot.serve.settings import Settings


async def read_all(scope, receive, send):
    """An application that holds what it is sent, and answers."""
    try:
        while (await receive())["more_body"]:
            pass
        answer = error_response(ApiError(404, "not_found", "read"))
    except ApiError as error:
        answer = error_response(error)
    await answer(scope, receive, send)


def test_requests_have_a_limit_together():
    async def run() -> list[int]:
        guard = Guard(read_all, Settings(source="", max_request_mb=2, max_held_mb=3), Metrics())
        let_go = asyncio.Event()
        statuses = []

        def request(size: int, wait: bool):
            parts = [{"type": "http.request", "body": bytes(size), "more_body": wait}]

            async def receive():
                if not parts:
                    await let_go.wait()
                    return {"type": "http.request", "body": b"", "more_body": False}
                return parts.pop()

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                elif statuses[-1] == 429:
                    assert json.loads(message["body"])["error"]["code"] == "overloaded"

            return guard({"type": "http", "path": "/predict", "headers": []}, receive, send)

        first = asyncio.create_task(request(1_800_000, wait=True))
        await asyncio.sleep(0)
        await request(1_700_000, wait=False)
        await request(1_100_000, wait=False)
        let_go.set()
        await first
        await request(1_700_000, wait=False)
        return statuses

    assert asyncio.run(run()) == [429, 404, 404, 404]


def test_codes_of_errors_are_known():
    with pytest.raises(AssertionError):
        ApiError(400, "other", "")
