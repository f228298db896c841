"""What nodes, stations and clients say to each other: PNG in JSON over HTTP, and shaped links."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import httptools
import numpy as np
import pydantic
from PIL import Image as images
from pydantic import ConfigDict, Field, TypeAdapter

from jaxmec.deploy.server import JSON, Refused, misfit
from jaxmec_testbed.painter import MAX_IMAGES, MAX_STEPS, Image, Mask

MAX_PIXELS = 1_048_576  # of one image
CHUNK = 16_384  # bytes that go at once over a link
PNG_SIGN = b"\x89PNG\r\n\x1a\n"
MBIT = 1e6
Identity = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Wanted(pydantic.BaseModel):
    """What is to be painted, of a node or of a station."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: Identity = Field(description="the same id asks for the same answer again")
    image: str = Field(description="PNG in base64")
    mask: str = Field(description="PNG in base64, as large, white where to paint")
    images: int = Field(default=1, ge=1, le=MAX_IMAGES, description="how many versions")
    seed: int = Field(default=0, ge=0, lt=2**31)


class Run(Wanted):
    """What a station asks of a node."""

    variant: str = Field(min_length=1, max_length=40)
    steps: int = Field(ge=1, le=MAX_STEPS)


class Ask(Wanted):
    """What a client asks of a station."""

    quality: float = Field(default=0.0, ge=0, le=1, description="the least that will do")
    limit: float = Field(default=30.0, gt=0, le=600, description="s, in which it is of use")


class Speed(pydantic.BaseModel):
    """How fast a node is to be."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    speed: float = Field(gt=0, le=1, description="of the nominal speed")


Parsed = TypeVar("Parsed")
RUN: TypeAdapter[Run] = TypeAdapter(Run)
ASK: TypeAdapter[Ask] = TypeAdapter(Ask)
SPEED: TypeAdapter[Speed] = TypeAdapter(Speed)


def parse(body: bytes, adapter: TypeAdapter[Parsed]) -> Parsed:
    """What a body says; spaces at its end are padding.

    Raises:
        Refused: it is no JSON, or does not fit; with the first few things that are wrong.
    """
    try:
        value = JSON.validate_json(body)
    except pydantic.ValidationError:
        raise Refused(400, "the body is not JSON", []) from None
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise misfit(
            [f"{'.'.join(map(str, each['loc']))[:200] or 'body'}: {each['msg'][:200]}"
             for each in problems[:10]]
        ) from None  # fmt: skip


def picture(name: str, text: str, mode: str, most: int = MAX_PIXELS) -> np.ndarray:
    """A PNG in base64, as an array: uint8 [H, W, 3] for the mode RGB, [H, W] for L.

    Its size is read from its header, before anything is unpacked.

    Raises:
        Refused: it is none, or too large; 413 and 422.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise misfit([f"{name}: it is not base64"]) from None
    if not data.startswith(PNG_SIGN) or len(data) < 33:
        raise misfit([f"{name}: it is no PNG"])
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    if not (width and height):
        raise misfit([f"{name}: it has no pixels"])
    if width * height > most:
        raise Refused(413, f"an image has at most {most} pixels", [f"{name}: {width} x {height}"])
    try:
        with images.open(io.BytesIO(data), formats=["PNG"]) as found:
            if found.size != (width, height):
                raise ValueError("two headers")
            return np.asarray(found.convert(mode))
    except Exception:  # what a broken file raises is of many kinds
        raise misfit([f"{name}: the PNG cannot be read"]) from None


def to_png(pixels: np.ndarray) -> str:
    """A PNG in base64 of uint8 [H, W, 3], or of bool [H, W]."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    file = io.BytesIO()
    images.fromarray(pixels).save(file, "png", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def body_of(document: dict[str, Any], least: int = 0) -> bytes:
    """A document as JSON of at least so many bytes."""
    return json.dumps(document).encode().ljust(least)


def unpack(wanted: Wanted, most: int = MAX_PIXELS) -> tuple[Image, Mask]:
    """The pictures of a request, of so many pixels at most.

    Raises:
        Refused: one cannot be read, or they are not as large as each other.
    """
    image = picture("image", wanted.image, "RGB", most)
    mask = picture("mask", wanted.mask, "L", most)
    if mask.shape != image.shape[:2]:
        raise misfit([f"mask: it must be as large as the image, {image.shape[1]} x "
                      f"{image.shape[0]}, got {mask.shape[1]} x {mask.shape[0]}"])  # fmt: skip
    return image, mask > 127


class Link:
    """A token bucket: what has gone through it in all never exceeds its rate."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        """Args:
        rate: Mbit/s; infinite: no bound.
        clock: s.
        """
        self._rate, self._clock, self.free = rate, clock, clock()

    async def take(self, size: int) -> None:
        """Wait until so many bytes more have gone through."""
        self.free = max(self.free, self._clock() - 0.005) + 8 * size / MBIT / self._rate
        wait = self.free - self._clock()
        if wait > 0.001:
            await asyncio.sleep(wait)


class Lost(Exception):
    """A peer did not answer; ``begun`` says whether its answer had begun."""

    def __init__(self, why: str, begun: bool = False) -> None:
        super().__init__(why)
        self.begun = begun


class Answer:
    """An answer over HTTP, whose content may still be on its way."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self.status = exchange.parser.get_status_code()

    async def content(self) -> Any:
        """Its JSON.

        Raises:
            Lost: the connection broke before it was whole.
        """
        while not self._exchange.whole:
            await self._exchange.more(begun=True)
        try:
            return json.loads(b"".join(self._exchange.parts))
        except ValueError:
            return {"error": "an answer that is no JSON"}


class _Exchange:
    """One connection with one request on it."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.parser = httptools.HttpResponseParser(self)
        self.parts: list[bytes] = []
        self.begun = self.whole = False

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.whole = True

    async def more(self, begun: bool = False) -> None:
        try:
            data = await self._reader.read(65_536)
            if not data:
                raise Lost("the connection broke", begun)
            self.parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as error:
            raise Lost(str(error) or type(error).__name__, begun) from None


class Peer:
    """A node or station at an address, asked over a new connection each time."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Raises:
        ValueError: a URL that is none.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"url must be like http://127.0.0.1:8080, got {url!r}")
        self.url, self._place = url, (parts.hostname, parts.port or 80)
        self._token = f"authorization: Bearer {token}\r\n" if token else ""

    def exchange(
        self, method: str, path: str, body: bytes = b"", link: Link | None = None, origin: int = -1
    ) -> _Asking:
        """The answer to a request, in ``async with``, once its headers are there.

        Raises (where it is entered):
            Lost: no connection, or none any more.
        """
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._place[0]}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"jaxmec-origin: {origin}\r\n{self._token}\r\n"
        )
        return _Asking(self._place, head.encode(), body, link)

    async def ask(self, method: str, path: str, body: bytes = b"", timeout: float = 5.0) -> Any:
        """The JSON answer to a short request.

        Raises:
            Lost: there was none in time, or a refusal.
        """
        try:
            async with asyncio.timeout(timeout), self.exchange(method, path, body) as answer:
                content = await answer.content()
        except TimeoutError:
            raise Lost(f"no answer within {timeout:g} s") from None
        if answer.status != 200:
            raise Lost(f"{answer.status}: {content.get('error')}")
        return content


class _Asking:
    def __init__(self, place: tuple[str, int], head: bytes, body: bytes, link: Link | None) -> None:
        self._place, self._head, self._body, self._link = place, head, body, link
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Answer:
        try:
            reader, self._writer = await asyncio.open_connection(*self._place)
        except OSError as error:
            raise Lost(str(error) or type(error).__name__) from None
        exchange = _Exchange(reader)
        try:
            with contextlib.suppress(OSError):  # a refusal may come before the last byte has gone
                await self._send(self._writer)
            while not exchange.begun:
                await exchange.more()
        except BaseException:
            await self.__aexit__()
            raise
        return Answer(exchange)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._head)
        for start in range(0, len(self._body), CHUNK):
            part = self._body[start : start + CHUNK]
            writer.write(part)
            await writer.drain()
            if self._link is not None:
                await self._link.take(len(part))

    async def __aexit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
