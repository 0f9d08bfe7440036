"""The one form of all errors: {"error": {"code": ..., "message": ...}}, with a fitting status."""

from typing import Literal, get_args

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

Code = Literal[
    "bad_request",
    "wrong_host",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "request_too_large",
    "too_many_files",
    "too_many_texts",
    "too_many_pixels",
    "too_many_characters",
    "unsupported_media_type",
    "invalid_value",
    "wrong_kind",
    "no_maps",
    "unreadable_image",
    "unreadable_text",
    "overloaded",
    "internal",
    "shutting_down",
    "timeout",
]
# Of statuses that Starlette gives by itself.
_CODES: dict[int, Code] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
CLIENT_LEFT = 499  # as nginx counts it; nobody reads the answer
PREDICT_STATUSES = (400, 408, 413, 415, 422, 429, 500, 503, 504)


class ErrorDetail(BaseModel):
    """What went wrong: a code for programs, a sentence for people."""

    code: Code
    message: str


class ErrorBody(BaseModel):
    """The body of every answer whose status is 400 or more."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An answer other than a prediction."""

    def __init__(self, status: int, code: Code, message: str, headers: dict[str, str] | None = None):
        assert code in get_args(Code)
        super().__init__(status, message, headers)
        self.code = code


def error_response(error: HTTPException) -> JSONResponse:
    """The answer that tells of an error."""
    code = getattr(error, "code", None) or _CODES.get(error.status_code, "internal")
    body = {"error": {"code": code, "message": str(error.detail)}}
    return JSONResponse(body, error.status_code, headers=error.headers)


def add_handlers(app: FastAPI) -> None:
    """Makes an application answer all errors in the one form."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(error)

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again behind the answer, for the log.
        return error_response(ApiError(500, "internal", "the server failed; its log says how"))

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_LEFT)

    app.add_exception_handler(HTTPException, known)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, unknown)
