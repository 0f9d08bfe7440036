"""From a request to the images or texts in it."""

import asyncio
import base64
import binascii
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from passl_sot.data.errors import ItemError
from passl_sot.imageio.decode import FORMATS
from passl_sot.serve.errors import ApiError
from passl_sot.serve.settings import Settings

FIELD = "images"
TEXTS = "texts"
_ROOM = 16
_LONGEST = 65_535  # JPEG's; what decoders do for each row makes images of one column slow
_SCANS = 16  # of the largest image; encoders write about 10
TopK = Annotated[int, Field(ge=1, le=1_000_000, description="classes per image or text")]


class JsonImages(BaseModel):
    """The body of a JSON request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    images: list[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]] = Field(
        min_length=1, description="files of images, in base64"
    )
    top_k: TopK = 5


class JsonTexts(BaseModel):
    """The body of a JSON request to a model of texts."""

    model_config = ConfigDict(extra="forbid", strict=True)
    texts: list[str | tuple[str, str]] = Field(
        min_length=1, description="texts, or pairs of texts that belong together"
    )
    top_k: TopK = 5


class FormFields(BaseModel):
    """The fields of a form beside its files."""

    model_config = ConfigDict(extra="forbid")
    top_k: TopK = 5


@dataclass(frozen=True)
class Upload:
    """One image or text of a request.

    Attributes:
        data: The bytes of a file; a text or a pair.
        place: For messages.
        name: Under which a file was sent.
    """

    data: Any
    place: str
    name: str = ""


@dataclass(frozen=True)
class Uploads:
    """What is asked: the classes of these, so many of each."""

    items: list[Upload]
    top_k: int


async def read_uploads(request: Request, settings: Settings, kind: str) -> Uploads:
    """The images or texts of a request, whose form or JSON the OpenAPI description shows.

    Args:
        request: The request.
        settings: Its limits.
        kind: What the model in service takes, "image" or "text".

    Raises:
        ApiError: It has none, too many, or another form.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "application/json":
        read = _read_images if kind == "image" else _read_texts
        return await asyncio.to_thread(read, await request.body(), settings)
    if kind == "text":
        message = 'a model of texts is in service: send application/json, {"texts": ["...", ...]}'
        raise ApiError(415, "unsupported_media_type", message)
    if media == "multipart/form-data":
        return await _read_form(request, settings)
    message = "send images as multipart/form-data (curl -F images=@a.jpg) or application/json"
    raise ApiError(415, "unsupported_media_type", message)


async def _read_form(request: Request, settings: Settings) -> Uploads:
    images = []
    fields: dict[str, str] = {}
    with _form_faults(settings):
        # Files above a megabyte lie on the disk, so that many slow uploads don't fill the memory.
        async with request.form(max_files=settings.max_files, max_fields=8) as form:
            for key, value in form.multi_items():
                # Some charsets a client may name give text that no answer can hold.
                key.encode()
                if not isinstance(value, UploadFile):
                    fields[key] = value
                elif key == FIELD:
                    # The name is told back and opens nothing; folders in it are nobody's business.
                    name = re.split(r"[/\\]", value.filename or "")[-1]
                    name.encode()
                    images.append(Upload(await value.read(), name, name))
                else:
                    message = f"a file came in the field {key[:80]!r}: files go into {FIELD!r}"
                    raise ApiError(422, "invalid_value", message)
    with _validation_faults():
        top_k = FormFields.model_validate(fields).top_k
    if not images:
        raise ApiError(422, "invalid_value", f"the form holds no file in the field {FIELD!r}")
    return Uploads(images, top_k)


@contextlib.contextmanager
def _form_faults(settings: Settings) -> Iterator[None]:
    """Gives the errors of Starlette's form parser codes of their own."""
    try:
        yield
    except ApiError:
        raise
    except UnicodeError as error:
        raise ApiError(400, "bad_request", "the form's names aren't text of its charset") from error
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise _too_many(settings) from error
        raise ApiError(400, "bad_request", f"the form is faulty: {error.detail}") from error


def _too_many(settings: Settings) -> ApiError:
    return ApiError(413, "too_many_files", f"a request may have {settings.max_files} images")


def _read_texts(body: bytes, settings: Settings) -> Uploads:
    # As of images, but commas and brackets do stand in texts: what stands between them is counted.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * settings.max_files + _ROOM:
        raise _too_many_texts(settings)
    between = b"".join(plain.split(b'"')[::2])
    if sum(map(between.count, (b",", b"[", b"{"))) > 3 * settings.max_files + _ROOM:
        raise ApiError(422, "invalid_value", 'the JSON is more than {"texts": [...], "top_k": 5}')
    with _validation_faults(other=FIELD):
        given = JsonTexts.model_validate_json(body)
    if len(given.texts) > settings.max_files:
        raise _too_many_texts(settings)
    items = []
    for number, text in enumerate(given.texts):
        place = f"{TEXTS}[{number}]"
        length = len(text) if isinstance(text, str) else max(map(len, text))
        if length > settings.max_characters:
            message = f"{place} has {length:,} characters, and a text may have {settings.max_characters:,}"
            raise ApiError(413, "too_many_characters", message)
        items.append(Upload(text, place))
    return Uploads(items, given.top_k)


def _too_many_texts(settings: Settings) -> ApiError:
    return ApiError(413, "too_many_texts", f"a request may have {settings.max_files} texts")


def _read_images(body: bytes, settings: Settings) -> Uploads:
    if f'"{TEXTS}"'.encode() in body:
        message = 'a model of images is in service: send {"images": [...]}, or files'
        raise ApiError(422, "wrong_kind", message)
    # Neither stands in base64. Read as JSON, a body full of them would take a hundred times its size.
    if body.count(b",") > settings.max_files + _ROOM:
        raise _too_many(settings)
    if body.count(b"[") + body.count(b"{") > _ROOM:
        raise ApiError(422, "invalid_value", 'the JSON is more than {"images": [...], "top_k": 5}')
    with _validation_faults():
        given = JsonImages.model_validate_json(body)
    if len(given.images) > settings.max_files:
        raise _too_many(settings)
    images = []
    for number, text in enumerate(given.images):
        place = f"{FIELD}[{number}]"
        try:
            images.append(Upload(base64.b64decode(text, validate=True), place))
        except (binascii.Error, ValueError) as error:
            raise ApiError(422, "invalid_value", f"{place} is no base64: {error}") from error
    return Uploads(images, given.top_k)


@contextlib.contextmanager
def _validation_faults(other: str = "") -> Iterator[None]:
    """Makes one sentence of pydantic's list of faults; what was sent isn't sent back.

    `other` is a field that models of another kind take.
    """
    try:
        yield
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        places = [".".join(map(str, fault["loc"]))[:80] for fault in faults[:3]]
        words = [
            f"{place}: {fault['msg']}".lstrip(": ") for place, fault in zip(places, faults, strict=False)
        ]
        if any(fault["loc"] == (other,) for fault in faults):
            message = 'a model of texts is in service: send {"texts": [...]}'
            raise ApiError(422, "wrong_kind", message) from error
        if faults[0]["type"] == "json_invalid":
            raise ApiError(400, "bad_request", words[0]) from error
        raise ApiError(422, "invalid_value", "; ".join(words)) from error


def check_pixels(upload: Upload, settings: Settings) -> None:
    """An ItemError where an image takes too much to decode, by its header; nothing is decoded."""
    most = settings.max_megapixels
    try:
        with Image.open(io.BytesIO(upload.data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise TooManyPixels(upload.place, f"more pixels than {most:g} million") from error
    except Exception:  # damaged in any way: who decodes it has the words for it
        return
    if width * height > most * 1e6:
        raise TooManyPixels(upload.place, f"{width}x{height} pixels, and {most:g} million may be sent")
    if max(width, height) > _LONGEST:
        raise TooManyPixels(upload.place, f"{width}x{height} pixels, and a side may have {_LONGEST:,}")
    # A progressive JPEG can have a scan of all pixels every 75 bytes. Within its codes no such marker stands.
    scans = upload.data.count(b"\xff\xda") * upload.data.startswith(b"\xff\xd8")
    if scans * width * height > _SCANS * most * 1e6:
        raise TooManyPixels(upload.place, f"{scans} times {width}x{height} pixels in a progressive JPEG")


class TooManyPixels(ItemError):
    """An image is larger than the server reads."""
