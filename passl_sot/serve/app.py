"""What the server answers."""

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from passl_sot.data.errors import ItemError
from passl_sot.launch.cpu_env import usable_cores
from passl_sot.serve import errors
from passl_sot.serve.batcher import Batcher
from passl_sot.serve.errors import ApiError, ErrorBody
from passl_sot.serve.explained import Explanation, Explanations, explained, require_maps
from passl_sot.serve.guard import Guard
from passl_sot.serve.hosted import Hosted, Loaded
from passl_sot.serve.metrics import Metrics
from passl_sot.serve.settings import Settings
from passl_sot.serve.uploads import (
    FIELD,
    TEXTS,
    FormFields,
    JsonImages,
    JsonTexts,
    TooManyPixels,
    Upload,
    Uploads,
    check_pixels,
    read_uploads,
)
from passl_sot.tasks.classification import Prediction
from passl_sot.tasks.text_classification import TextPrediction
from passl_sot.version import __version__

PAGE = Path(__file__).with_name("page")


class Predictions(BaseModel):
    """A row for each image, in order; all fields are those of `passl-sot predict --out rows.json`."""

    predictions: list[Prediction]


class TextPredictions(BaseModel):
    """A row for each text, in order; all fields are those of `passl-sot predict --out rows.json`."""

    predictions: list[TextPrediction]


class ModelInfo(BaseModel):
    """What is in service, and what may be sent."""

    name: str
    kind: Literal["image", "text"]
    engine: str
    precision: str
    class_names: list[str]
    maps: bool
    since: float
    fault: str
    max_files: int
    max_request_mb: float
    max_megapixels: float
    max_characters: int


class State(BaseModel):
    """Whether the process lives, or is ready."""

    status: str


class Service:
    """The parts of one serving process.

    Attributes:
        asgi: The application.
        hosted: The model in service.

    Raises:
        UserError: The model can't be loaded.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._metrics = Metrics()
        self.hosted = Hosted(settings, self._metrics)
        self._batcher = Batcher(settings, self._metrics)
        self._signals: set[int] = set()
        self._decoding = ThreadPoolExecutor(min(4, usable_cores()), "decode")
        # Without FastAPI's own pages of documents, which load scripts from elsewhere.
        app = FastAPI(
            title="passl_sot", version=__version__, lifespan=self._lifespan, docs_url=None, redoc_url=None
        )
        errors.add_handlers(app)
        self._add_routes(app)
        self.asgi = Guard(app, settings, self._metrics)

    def _add_routes(self, app: FastAPI) -> None:
        faults: dict[int | str, dict[str, Any]] = {
            status: {"model": ErrorBody} for status in errors.PREDICT_STATUSES
        }
        make_body = _images_body
        predictions: type[BaseModel] = Predictions
        if self.hosted.now.kind == "text":
            make_body = _texts_body
            predictions = TextPredictions
        body = {"requestBody": {"required": True, "content": make_body(self._settings)}}

        def add(path: str, answer: Callable, **more: Any) -> None:
            app.add_api_route(path, answer, name=path.strip("/"), **more)

        answers: dict[str, Any] = {"response_model": predictions, "responses": faults}
        add("/predict", self._predict, methods=["POST"], openapi_extra=body, **answers)
        answers["response_model"] = Explanations
        add("/explain", self._explain, methods=["POST"], openapi_extra=body, **answers)
        add("/model", self._model, response_model=ModelInfo)
        add("/health", self._health, response_model=State)
        add("/ready", self._ready, response_model=State, responses={503: {"model": ErrorBody}})
        add("/metrics", self._numbers, response_class=PlainTextResponse)
        add("/", self._page, include_in_schema=False, response_class=FileResponse)
        app.mount("/page", StaticFiles(directory=PAGE))

    # -- start and end ------------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(self._batcher.run()), loop.create_task(self.hosted.watch())}

        def take_signal(number: int, then: Any) -> None:
            tasks.add(loop.create_task(self._end(number, then)))

        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn's handler, which closes all doors at once; in its place until the work is done.
            loop.add_signal_handler(number, take_signal, number, signal.getsignal(number))
        loop.add_signal_handler(signal.SIGHUP, self.hosted.ask)
        yield
        for task in tasks:
            task.cancel()

    async def _end(self, number: int, stop: Callable) -> None:
        """Stops when all that runs is answered; at once if the same signal came before."""
        again = number in self._signals
        self._signals.add(number)
        self.asgi.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.timeout
        while self.asgi.running and not again and loop.time() < until:
            await asyncio.sleep(0.05)
        stop(number, None)

    # -- answers ------------------------------------------------------------------------------------
    async def _predict(self, request: Request) -> JSONResponse:
        """The most probable classes of one or more images or texts, best first.

        A request with items that can't be read gets the rows of the others, and an `error` in theirs; it
        fails where none can be read.
        """
        self._check_ready()
        with self._batcher.place() as place:
            uploads = await read_uploads(request, self._settings, self.hosted.now.kind)
            place.take(len(uploads.items))
            rows = await self._in_time(request, self._rows(uploads))
        # Not through the response model: JSON writes the digits that `predict` writes.
        return JSONResponse({"predictions": rows})

    async def _explain(self, request: Request) -> Explanations:
        """What speaks for the most probable class of each image or text; see `Explanation`.

        Only of a checkpoint on Paddle's own engine; others have no gradients.
        """
        self._check_ready()
        model = self.hosted.now
        require_maps(model)
        with self._batcher.place() as place:
            uploads = await read_uploads(request, self._settings, model.kind)
            place.take(len(uploads.items))
            rows = await self._in_time(request, self._maps(model, uploads.items))
        return Explanations(explanations=rows)

    async def _maps(self, model: Loaded, items: list[Upload]) -> list[Explanation]:
        samples = await self._samples(model, items)
        rows = [Explanation(path=item.name) for item in items]
        for row, sample in zip(rows, samples, strict=True):
            if isinstance(sample, ItemError):
                row.error = str(sample)
        readable = [number for number, row in enumerate(rows) if not row.error]
        most = self._settings.max_batch
        for start in range(0, len(readable), most):
            chosen = readable[start : start + most]
            work = functools.partial(
                explained, model, [items[i].data for i in chosen], [samples[i] for i in chosen]
            )
            for number, row in zip(chosen, await self._batcher.alone(work), strict=True):
                rows[number] = row.model_copy(update={"path": items[number].name})
        return rows

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, list]) -> list:
        """Awaits work, unless time is over or the client leaves; what is not computed yet never is then."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_until_gone(request))
        left = request.state.deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            raise ApiError(504, "timeout", "the answer wasn't computed in time", {"Retry-After": "1"})
        finally:
            task.cancel()
            gone.cancel()

    async def _rows(self, uploads: Uploads) -> list[dict[str, Any]]:
        model = self.hosted.now
        samples = await self._samples(model, uploads.items)
        waits = [
            self._batcher.submit(model, sample, uploads.top_k)
            for sample in samples
            if not isinstance(sample, ItemError)
        ]
        found = iter(await asyncio.gather(*waits))
        rows = []
        task = model.predictor.task
        for item, sample in zip(uploads.items, samples, strict=True):
            named = item.name if model.kind == "image" else item.data
            if isinstance(sample, ItemError):
                row = task.row(named, str(sample), {})
            else:
                row = task.row(named, "", _best(next(found), uploads.top_k))
            rows.append(vars(row))
        return rows

    async def _samples(self, model: Loaded, items: list[Upload]) -> list[Any]:
        """Of each item a sample or an ItemError; an ApiError where none can be read."""
        loop = asyncio.get_running_loop()
        reads = [loop.run_in_executor(self._decoding, self._read, model, item) for item in items]
        samples = await asyncio.gather(*reads)
        faults = [sample for sample in samples if isinstance(sample, ItemError)]
        if len(faults) == len(samples):
            raise _unreadable(faults[0], model.kind)
        return samples

    def _read(self, model: Loaded, item: Upload) -> dict[str, Any] | ItemError:
        """A sample, or why there is none."""
        try:
            if model.kind == "image":
                check_pixels(item, self._settings)
            return model.predictor.read(item.data)
        except TooManyPixels as error:
            return error
        except ItemError as error:
            return ItemError(item.place, error.reason)

    def _check_ready(self) -> None:
        if self.asgi.draining:
            headers = {"Retry-After": "1", "Connection": "close"}
            raise ApiError(503, "shutting_down", "the server is about to end", headers)

    async def _model(self) -> ModelInfo:
        """What is in service."""
        model = self.hosted.now
        limits = self._settings
        return ModelInfo(
            name=model.name,
            kind=model.kind,
            engine=model.predictor.engine.name,
            precision=model.predictor.precision,
            class_names=model.predictor.class_names,
            maps=model.predictor.model is not None,
            since=model.since,
            fault=self.hosted.fault,
            max_files=limits.max_files,
            max_request_mb=limits.max_request_mb,
            max_megapixels=limits.max_megapixels,
            max_characters=limits.max_characters,
        )

    async def _health(self) -> State:
        """Answers as long as the process lives."""
        return State(status="alive")

    async def _ready(self) -> State:
        """Whether to send requests here: not while the server ends."""
        self._check_ready()
        return State(status="ready")

    async def _numbers(self) -> PlainTextResponse:
        """Metrics for Prometheus."""
        return PlainTextResponse(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _page(self) -> FileResponse:
        return FileResponse(PAGE / "index.html")


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _best(row: dict[str, Any], top_k: int) -> dict[str, Any]:
    """A row of no more classes: its batch may have been computed for others who want more."""
    return {key: value[:top_k] if isinstance(value, list) else value for key, value in row.items()}


def _unreadable(error: ItemError, kind: str) -> ApiError:
    if isinstance(error, TooManyPixels):
        return ApiError(413, "too_many_pixels", str(error))
    return ApiError(422, "unreadable_image" if kind == "image" else "unreadable_text", str(error))


def _texts_body(settings: Settings) -> dict[str, Any]:
    """What `read_uploads` reads of texts, for the OpenAPI description."""
    schema = JsonTexts.model_json_schema()
    schema["properties"][TEXTS] |= {"maxItems": settings.max_files}
    return {"application/json": {"schema": schema}}


def _images_body(settings: Settings) -> dict[str, Any]:
    """The same of images."""
    form = FormFields.model_json_schema()
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form["properties"] = {FIELD: files, **form["properties"]}
    form["required"] = [FIELD]
    plain = JsonImages.model_json_schema()
    for schema in (form, plain):
        schema["properties"][FIELD] |= {"minItems": 1, "maxItems": settings.max_files}
    return {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}}
