"""
The Image Factory: gives a Talos to boot as files on our own disk, so that a rack boots with the factory away.

A machine asks; if the image is not here, one *flight* fetches it: the schematic is posted (once, its id is kept), the iPXE script
of the factory is read, and what it names is downloaded. All machines that want the same wait for the same flight, and none of
them can end it. Who has waited for `patience` is told to come back, and the flight goes on. A flight that failed is not repeated
before a pause that grows; until then everybody gets its error at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

import aiohttp
import structlog
from yarl import URL

from provider.domain.errors import BootwrightError, MalformedPacketError, PermanentError, TemporaryError, UnderWayError
from provider.http.images import Image, Images, Staging
from provider.kit import backoff
from provider.planning.talos import FactoryAddress, TalosBoot
from provider.wire import factory

log = structlog.get_logger()

MOST_FLIGHTS = 64
"""Under way or waiting for their turn; `_PARALLEL` of them use the network."""

MOST_FAILURES = 1024
"""Remembered, the oldest forgotten first."""

_PARALLEL = 3
_MOST_ANSWER_BYTES = 64 << 10
_CHUNK_BYTES = 1 << 20
_DEFAULT_RETRY = timedelta(seconds=30)

_AT_ONCE = timedelta(0)
"""As `retry_after`: the pause after failures is all that there is."""


@dataclass(frozen=True)
class Patience:
    """How long what may last, in seconds."""

    connect: float = 10.0
    answer: float = 60.0
    """Of the factory to a question: it may have to build the image first. Also the longest silence within a download."""
    flight: float = 1800.0
    """From the first question to the image on disk."""
    machine: float = 20.0
    """Of a machine that waits for its script."""
    first_pause: timedelta = timedelta(seconds=5)
    longest_pause: timedelta = timedelta(minutes=5)


@dataclass(frozen=True)
class _Key:
    """What one flight fetches; `digest` is of factory and schematic."""

    digest: str
    version: str
    variant: str


@dataclass
class _Flight:
    url: URL
    pxe_url: URL
    landed: asyncio.Future[Image | BootwrightError]
    received: int = 0
    """Bytes."""


@dataclass
class _Failure:
    error: BootwrightError
    count: int
    until: float
    """Of the loop's clock."""


class Factory:
    """A client with its cache, of the factory that is at `address` by then; `async with` opens it."""

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        address: Callable[[], FactoryAddress],
        *,
        ca_file: Path | None = None,
        patience: Patience = Patience(),
    ) -> None:
        self.images = Images(folder, most_bytes)
        self._address = address
        self._ca_file = ca_file
        self._patience = patience
        self._flights: dict[_Key, _Flight] = {}
        self._failures: dict[_Key, _Failure] = {}
        self._turns = asyncio.Semaphore(_PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Take stock of the images; raises PermanentError if folder or CA file cannot be used."""
        async with AsyncExitStack() as stack:
            await self.images.open()
            stack.callback(self.images.close)
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=self._patience.connect, sock_read=self._patience.answer
            )
            connector = aiohttp.TCPConnector(ssl=_trust(self._ca_file))
            self._http = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=timeout,
                    auto_decompress=False,
                    headers={"Accept-Encoding": "identity"},
                )
            )
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is under way: nothing of it is lost but what was downloaded."""
        for task in self._tasks:
            task.cancel()
        await self._stack.aclose()

    async def image(self, boot: TalosBoot) -> Image:
        """
        Give the image of a boot, from disk if it is there.

        Raises:
            TemporaryError: If it is on its way, or the factory is away or busy: come back.
            PermanentError: If the factory refuses it.
        """
        body = factory.schematic_body(boot.schematic)
        address = self._address()
        url, pxe_url = URL(address.url), URL(address.pxe_url)
        key = _Key(hashlib.sha256(f"{_shown(url)}\n".encode() + body).hexdigest(), boot.version, boot.variant)
        schematic = self.images.schematic(key.digest)
        found = self.images.find(_name(schematic, key)) if schematic else None
        if found:
            return found
        flight = self._flights.get(key) or self._begin(key, body, url, pxe_url)
        try:
            async with asyncio.timeout(self._patience.machine):
                landed = await asyncio.shield(flight.landed)
        except TimeoutError:
            raise UnderWayError(
                f"Talos {key.version} {key.variant} is being fetched: {flight.received >> 20} MiB so far",
                retry_after=self._patience.first_pause,
            ) from None
        if isinstance(landed, BootwrightError):
            raise landed.with_traceback(None)  # Of another task, and it would grow with each who waited.
        return landed

    # --- flights ---

    def _begin(self, key: _Key, body: bytes, url: URL, pxe_url: URL) -> _Flight:
        loop = asyncio.get_running_loop()
        failure = self._failures.get(key)
        if failure and loop.time() < failure.until:
            raise _again(failure, timedelta(seconds=failure.until - loop.time()))
        if len(self._flights) >= MOST_FLIGHTS:
            raise TemporaryError(f"{MOST_FLIGHTS} images are being fetched already", retry_after=_DEFAULT_RETRY)
        flight = self._flights[key] = _Flight(url, pxe_url, loop.create_future())
        task = self._group.create_task(self._fly(key, body, flight), name=f"image {key.version} {key.variant}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, key: _Key, body: bytes, flight: _Flight) -> None:
        """One flight, which never fails: how it ended is what it lands with."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        landed: Image | BootwrightError
        try:
            async with self._turns, asyncio.timeout(self._patience.flight):
                landed = await self._fetch(key, body, flight)
        except asyncio.CancelledError:
            flight.landed.set_result(TemporaryError("the provider is ending", retry_after=_DEFAULT_RETRY))
            raise
        except BootwrightError as error:
            landed = error
        except TimeoutError:
            landed = _late(flight.url, "it took too long")
        except OSError as error:
            hint = "see whether the disk of the images is full or broken"
            landed = TemporaryError(f"the image cannot be stored: {error.strerror}", retry_after=_AT_ONCE, hint=hint)
        except Exception:
            log.exception("factory.flight_failed", version=key.version, variant=key.variant)
            landed = TemporaryError("an error of ours; see the log", retry_after=_AT_ONCE)
        # No `await` beyond this point: who asks now finds the image, the failure, or this flight.
        del self._flights[key]
        if isinstance(landed, Image):
            self._failures.pop(key, None)
            log.info(
                "factory.image_fetched",
                image=landed.name,
                bytes=landed.size,
                elapsed_s=round(loop.time() - started, 1),
            )
        else:
            landed = self._remember(key, landed)
        flight.landed.set_result(landed)

    def _remember(self, key: _Key, error: BootwrightError) -> BootwrightError:
        """Keep a failure, and give the error for those who waited: it says when they may come again."""
        before = self._failures.pop(key, None)
        count = before.count + 1 if before else 1
        spread = random.random()  # noqa: S311 - jitter
        pause = backoff.delay(count, self._patience.first_pause, self._patience.longest_pause, spread)
        if isinstance(error, TemporaryError):
            pause = max(pause, error.retry_after)
        until = asyncio.get_running_loop().time() + pause.total_seconds()
        failure = self._failures[key] = _Failure(error, count, until)
        if len(self._failures) > MOST_FAILURES:
            del self._failures[next(iter(self._failures))]
        log.warning(
            "factory.failed", version=key.version, variant=key.variant, attempt=count, error=str(error), hint=error.hint
        )
        return _again(failure, pause)

    # --- what a flight does ---

    async def _fetch(self, key: _Key, body: bytes, flight: _Flight) -> Image:
        schematic = self.images.schematic(key.digest) or await self._post(key, body, flight)
        name = _name(schematic, key)
        found = self.images.find(name)
        if found:
            return found
        url = flight.pxe_url / "pxe" / schematic / key.version / key.variant
        try:
            answer = await self._ask("GET", url)
        except NotKnownError:
            await self.images.forget_schematic(key.digest)  # A factory that lost it gets it again, the next time.
            raise
        try:
            script = factory.read_script(answer)
            urls = [url.join(URL(text)) for text in (script.kernel, *script.initrds)]
        except (MalformedPacketError, ValueError) as error:
            raise _nonsense(url, str(error)) from error
        async with self.images.stage(name) as staging:
            for file_url in urls:
                _check_scheme(url, file_url)
                await self._download(file_url, staging, flight)
            return await staging.commit(script.arguments)

    async def _post(self, key: _Key, body: bytes, flight: _Flight) -> str:
        url = flight.url / "schematics"
        answer = await self._ask("POST", url, body)
        try:
            schematic = factory.schematic_id(answer)
        except MalformedPacketError as error:
            raise _nonsense(url, str(error)) from error
        await self.images.remember_schematic(key.digest, schematic)
        return schematic

    async def _ask(self, method: str, url: URL, body: bytes | None = None) -> bytes:
        """A short answer."""
        async with self._answer(method, url, body) as response:
            answer = b""
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > _MOST_ANSWER_BYTES:
                    raise _nonsense(url, f"an answer of more than {_MOST_ANSWER_BYTES} bytes")
            return answer

    async def _download(self, url: URL, staging: Staging, flight: _Flight) -> None:
        """One file: nothing shorter or longer than it was said to be, and no page of a proxy that lets nothing through."""
        async with self._answer("GET", url) as response:
            if response.content_type == "text/html":
                raise _nonsense(url, "a page for people")
            size = response.content_length
            if size is None and not response.headers.get("Transfer-Encoding"):
                raise _nonsense(url, "a file that does not say how long it is")
            if size is not None:
                await staging.reserve(size)
            written = await staging.add(_chunks(response, staging if size is None else None, flight))
        if written == 0 or size not in (None, written):
            raise _nonsense(url, f"{written} bytes of a file of {size}")

    @asynccontextmanager
    async def _answer(self, method: str, url: URL, body: bytes | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer; whatever goes wrong with it becomes an error of ours."""
        headers = {"Content-Type": factory.SCHEMATIC_TYPE} if body is not None else {}
        try:
            async with self._http.request(method, url, data=body, headers=headers) as response:
                for step in (*response.history, response):
                    _check_scheme(url, step.url)
                if response.status not in (200, 201):
                    raise await _refusal(url, response)
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding != "identity":
                    raise _nonsense(url, f"an answer in {encoding[:40]}, which nobody asked for")
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise PermanentError(
                f"the certificate of the image factory at {url.host} is not trusted: {error.certificate_error}",
                hint="name its CA in the settings, or check the clock",
            ) from error
        except TimeoutError as error:
            raise _late(url, "it does not answer in time") from error
        except aiohttp.InvalidURL as error:
            raise _nonsense(url, "a URL that is none") from error
        except aiohttp.ClientError as error:
            raise _late(url, str(error) or type(error).__name__) from error


class NotKnownError(PermanentError):
    """The factory knows no such schematic or version."""


async def _chunks(
    response: aiohttp.ClientResponse, unmeasured: Staging | None, flight: _Flight
) -> AsyncIterator[bytes]:
    """The bytes of a file; if nobody said how many there are, room is made as they come."""
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        if unmeasured:
            await unmeasured.reserve(len(chunk))
        flight.received += len(chunk)
        yield chunk


def _name(schematic: str, key: _Key) -> str:
    return f"{schematic}-{key.version}-{key.variant}"


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """The system's CAs, and the site's own: a factory may send us on to a store of somebody else's."""
    context = ssl.create_default_context()
    if ca_file is None:
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:  # ssl.SSLError is one.
        reason = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise PermanentError(
            f"the CA file {ca_file} of the image factory cannot be used: {reason}", hint="it has to be in PEM"
        ) from error
    return context


def _check_scheme(asked: URL, got: URL) -> None:
    """What is booted must not come by HTTP if the factory was asked by HTTPS, whoever sends us there."""
    if got.scheme not in ("http", "https") or (asked.scheme == "https" and got.scheme == "http"):
        raise PermanentError(
            f"the image factory at {asked.host} sends us from {asked.scheme} to {got.scheme}",
            hint="mend the external URLs in the factory's configuration",
        )


async def _refusal(url: URL, response: aiohttp.ClientResponse) -> BootwrightError:
    said = (await response.content.read(500)).decode(errors="replace").strip().split("\n")[0][:200]
    what = f"the image factory at {url.host} answers {response.status}"
    what += f" ({said})" if said.isprintable() and said else ""
    match response.status:
        case 400:
            return PermanentError(what, hint="it knows no such extension or version, or not together: check both")
        case 401 | 403:
            return PermanentError(what, hint="it wants a user: write https://USER:PASSWORD@… as its URL")
        case 404:
            return NotKnownError(
                what, hint="it does not have this version of Talos, or lost the schematic: check the version"
            )
        case status if 400 <= status < 500 and status not in (408, 425, 429):
            return PermanentError(what, hint="check the URL of the factory in the settings")
    after = response.headers.get("Retry-After", "")
    seconds = min(int(after), 3600) if after.isascii() and after.isdigit() and len(after) < 6 else 0
    retry_after = timedelta(seconds=seconds)
    return TemporaryError(what, retry_after=retry_after, hint="it is busy or out of order; we try again")


def _late(url: URL, reason: str) -> TemporaryError:
    return TemporaryError(
        f"the image factory at {url.host} cannot be reached: {reason}",
        retry_after=_AT_ONCE,
        hint=f"check the way to it: curl -v {_shown(url.origin())}",
    )


def _nonsense(url: URL, what: str) -> TemporaryError:
    """It may be a proxy on the way that does not know better."""
    return TemporaryError(
        f"the image factory at {url.host} sends what is of no use: {what}",
        retry_after=_AT_ONCE,
        hint=f"see what is there: curl -v {_shown(url)}",
    )


def _again(failure: _Failure, left: timedelta) -> BootwrightError:
    """The same error for who comes too early."""
    if isinstance(failure.error, PermanentError):
        return failure.error.with_traceback(None)
    return TemporaryError(str(failure.error), retry_after=left, hint=failure.error.hint)


def _shown(url: URL) -> str:
    """Without the password, and the token that may be in a query."""
    return str(url.with_user(None).with_query(None)) if url.host else ""
