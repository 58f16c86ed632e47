"""Reading a request's body, and the image in it, within the limits."""

from __future__ import annotations

import asyncio
import re
import reprlib
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import numpy as np
from fastapi import Request
from PIL import Image
from starlette.formparsers import MultiPartException, MultiPartParser

from deploy.serving.limits import Limits
from deploy.serving.schemas import TextBody
from tasks.errors import DecodeError, RequestError
from tasks.modality.images.content import load, open_image, to_rgb

# zlib's window bits: the largest window, and either of the headers of gzip and zlib.
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
DIGITS = re.compile("[0-9]{1,18}")  # int() takes other scripts' digits too, and refuses thousands of them


class PendingBytes:
    """How much the bodies under way hold together; one event loop owns it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def account(self) -> Iterator[Account]:
        account = Account(self)
        try:
            yield account
        finally:
            self.held -= account.held


class Account:
    """One request's part of `PendingBytes`."""

    def __init__(self, pending: PendingBytes) -> None:
        self._pending = pending
        self.held = 0

    def add(self, size: int) -> None:
        """Raises RequestError (503) where all requests together hold too much."""
        if self._pending.held + size > self._pending.limit:
            raise RequestError(503, "the server holds as many bytes of requests as it may; ask again in a moment")
        self._pending.held += size
        self.held += size


async def read_body(request: Request, account: Account, limits: Limits) -> bytes:
    """The whole body, unpacked where it is compressed.

    Raises:
        RequestError: 408 too slow, 413 too large, 415 an unknown compression, 400 a damaged one.
    """
    announced = request.headers.get("content-length", "")
    if not DIGITS.fullmatch(announced) and announced:
        raise RequestError(400, f"Content-Length is no number of bytes: {reprlib.repr(announced)}")
    if int(announced or 0) > limits.max_body_bytes:
        raise _too_large(f"a body of {announced} bytes", limits)
    try:
        async with asyncio.timeout(limits.timeout_s):
            body = await _read_stream(request, account, limits)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {limits.timeout_s:g} s") from None
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, f"the body is compressed by {encoding!r}; gzip and deflate are understood")
    unpacked = _unpack(body, limits)
    account.add(len(unpacked))
    return unpacked


async def _read_stream(request: Request, account: Account, limits: Limits) -> bytes:
    chunks = []
    async for chunk in request.stream():
        account.add(len(chunk))
        chunks.append(chunk)
        if account.held > limits.max_body_bytes:
            raise _too_large("the body", limits)
    return b"".join(chunks)


def _unpack(body: bytes, limits: Limits) -> bytes:
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        unpacked = unpacker.decompress(body, limits.max_body_bytes + 1)
    except zlib.error as exc:
        raise RequestError(400, f"the compressed body is damaged: {exc}") from None
    if len(unpacked) > limits.max_body_bytes:
        raise _too_large("the body, unpacked,", limits)
    if not unpacker.eof:
        raise RequestError(400, "the compressed body is cut off")
    return unpacked


def _too_large(what: str, limits: Limits) -> RequestError:
    return RequestError(413, f"{what} is more than the {limits.max_body_bytes} bytes allowed here")


async def image_bytes(request: Request, body: bytes, limits: Limits) -> bytes:
    """The image file in a body: the body itself, or the one file of a form.

    Raises:
        RequestError: 400 a form that can't be read or holds no file, 415 a body of another type.
    """
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form_file(request, body, limits)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return body
    # curl --data-binary calls everything a form, so what the bytes are decides there.
    if kind == "application/x-www-form-urlencoded":
        return body
    raise RequestError(415, f"send an image file, or a form with one; found the content type {kind!r}")


async def _form_file(request: Request, body: bytes, limits: Limits) -> bytes:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=16)
    parser.spool_max_size = limits.max_body_bytes  # it is in memory already: keep it off the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as exc:
        raise RequestError(400, f"the form can't be read: {exc}") from None
    try:
        for _, value in form.multi_items():
            if not isinstance(value, str):
                return await value.read()
    finally:
        await form.close()
    raise RequestError(400, "the form holds no file; send one, as in `curl -F image=@photo.jpg`")


def text_of(request: Request, body: bytes) -> str:
    """The text in a body: the field `text` of a JSON object, or plain text.

    Raises:
        RequestError: 400 no such field, or not UTF-8; 415 a body of another type.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    # curl -d calls everything a form, so what the bytes are decides there.
    if kind == "application/x-www-form-urlencoded" and body.lstrip().startswith(b"{"):
        kind = "application/json"
    if kind not in ("application/json", "text/plain"):
        raise RequestError(415, f'send JSON, {{"text": "…"}}, or text/plain; found the content type {kind!r}')
    if kind != "text/plain":
        return TextBody.read(body).text
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise RequestError(400, f"the text is not UTF-8: byte {exc.start}") from None


def opened_image(content: bytes, limits: Limits) -> Image.Image:
    """An image whose header was read: its size is known. Raises RequestError: 400, or 413 for too many pixels."""
    try:
        image = open_image(content, max_pixels=2**62)
    except DecodeError as exc:
        raise RequestError(400, str(exc)) from None
    width, height = image.size
    if width * height > limits.max_pixels:
        raise RequestError(413, f"{width}x{height} pixels are more than the {limits.max_pixels} allowed here")
    return image


def decode_image(image: Image.Image) -> np.ndarray:
    """The image as uint8 [H, W, 3], RGB. Raises RequestError (400)."""
    try:
        return np.asarray(to_rgb(load(image)))
    except DecodeError as exc:
        raise RequestError(400, str(exc)) from None
