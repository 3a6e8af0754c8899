"""
One Omni's state service: each method is one signed call with a deadline, and its failure an error that says why.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from provider.domain.errors import BootwrightError, NotFoundError, PermanentError, RefusedError, TemporaryError
from provider.manager.omni import errors
from provider.manager.omni.credentials import Credentials
from provider.manager.omni.errors import ConflictError, Failure, UnsupportedError
from provider.wire import cosi, protobuf
from provider.wire.cosi import Kind, Resource
from provider.wire.protobuf import Method

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")
Request = TypeVar("Request", bound="DataclassInstance")
Answer = TypeVar("Answer", bound="DataclassInstance")

CALL_SECONDS = 20.0

LARGEST_MESSAGE = 32 << 20
"""Bytes; the server's own limit."""

KEEPALIVE_SECONDS = 60
"""A connection that died without a word is found out by then, and a half more."""

TRIES = 5
"""How often a change is tried against somebody who changes the same resource."""


@dataclass(frozen=True)
class Endpoint:
    """Where Omni is; `host:port` and whether it speaks TLS."""

    target: str
    tls: bool

    @property
    def page(self) -> str:
        """The URL of its web page."""
        return f"{'https' if self.tls else 'http'}://{self.target}/"

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """
        Read `https://omni.example.com`, or with `http` or `grpc` one without TLS.

        Raises:
            PermanentError: If it is no such URL.
        """
        hint = "write it as https://omni.example.com or http://127.0.0.1:8080"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise PermanentError(f"{url!r} is no address of an Omni: {error}", hint=hint) from error
        if parts.scheme not in ("https", "http", "grpc") or not parts.hostname:
            raise PermanentError(f"{url!r} is no address of an Omni", hint=hint)
        tls = parts.scheme == "https"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{host}:{port or (443 if tls else 80)}", tls)


def open_channel(endpoint: Endpoint, ca_file: Path | None) -> grpc.aio.Channel:
    """
    Dial, lazily: nothing is sent before the first call.

    Raises:
        PermanentError: If the CA file cannot be read.
    """
    options = (
        ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 500),
        ("grpc.enable_retries", 0),
        # A channel of its own for each attempt: none that was given up waits somewhere for its back-off.
        ("grpc.use_local_subchannel_pool", 1),
    )
    if not endpoint.tls:
        return grpc.aio.insecure_channel(endpoint.target, options=options)
    try:
        roots = None if ca_file is None else ca_file.read_bytes()
    except OSError as error:
        hint = "set manager.ca_file to the CA certificate of Omni in PEM"
        raise PermanentError(f"the CA file {ca_file} cannot be read: {error}", hint=hint) from error
    return grpc.aio.secure_channel(endpoint.target, grpc.ssl_channel_credentials(roots), options=options)


class State:
    """The calls. All raise the errors of `errors.explain`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        credentials: Credentials,
        clock: Callable[[], datetime],
        server_clock: Callable[[], Awaitable[datetime | None]],
    ) -> None:
        """`server_clock` says what time it is at Omni; it is asked when Omni does not take a signature."""
        self._channel = channel
        self._credentials = credentials
        self._clock = clock
        self._server_clock = server_clock

    async def get(self, kind: Kind[S], id: str) -> Resource | None:  # noqa: A002 - the field's word
        """One resource, or None."""
        try:
            answer = await self._call(cosi.GET, cosi.GetRequest(kind.namespace, kind.name, id))
        except NotFoundError:
            return None
        return answer.resource

    async def list(self, kind: Kind[S]) -> list[Resource]:
        """All of a kind that we may see."""
        request = cosi.ListRequest(kind.namespace, kind.name)
        return [answer.resource async for answer in self._stream(cosi.LIST, request, CALL_SECONDS)]

    async def create(self, resource: Resource, owner: str = "") -> Resource:
        """Create it; raises ExistsError if it is there."""
        answer = await self._call(cosi.CREATE, cosi.CreateRequest(resource, cosi.OwnerOptions(owner)))
        return answer.resource

    async def update(self, resource: Resource, *, expected_phase: str | None = cosi.RUNNING) -> Resource:
        """Replace the one that has this version; raises ConflictError if there is a newer one."""
        options = cosi.UpdateOptions(resource.metadata.owner, expected_phase)
        answer = await self._call(cosi.UPDATE, cosi.UpdateRequest(resource, options))
        return answer.resource

    async def change(
        self,
        kind: Kind[S],
        id: str,  # noqa: A002 - the field's word
        edit: Callable[[Resource], Resource | None],
        *,
        known: Resource | None = None,
    ) -> Resource | None:
        """
        Read the resource, edit it and write it back, in whatever phase it is, until nobody changes it meanwhile.

        `edit` gives None if there is nothing to change. Gives the resource as it is at the end, None if it is gone. `known` is
        what is probably there, and spares the reading of it.
        """
        for attempt in range(TRIES):
            before = known if attempt == 0 and known is not None else await self.get(kind, id)
            after = None if before is None else edit(before)
            if after is None:
                return before
            try:
                return await self.update(after, expected_phase=None)
            except ConflictError:
                if attempt == TRIES - 1:
                    raise
            except RefusedError:
                # Whether we may is seen to before the version, and an old spec or label looks like a change of ours.
                if attempt > 0 or known is None:
                    raise
            except NotFoundError:
                return None
        raise AssertionError("the last try returns or raises")

    async def put(
        self,
        kind: Kind[S],
        id: str,  # noqa: A002 - the field's word
        resource: Callable[[Resource | None], Resource],
        owner: str,
        *,
        known: Resource | None = None,
        is_known: bool = False,
    ) -> Resource:
        """
        Create or update one of our own resources: `resource` makes the new one from what is there.

        `known` is what is probably there, and spares the reading of it; if it `is_known`, None says that nothing is.
        """
        for attempt in range(TRIES):
            before = known if attempt == 0 and (is_known or known is not None) else await self.get(kind, id)
            try:
                if before is None:
                    return await self.create(resource(None), owner)
                return await self.update(resource(before))
            except (ConflictError, errors.ExistsError, NotFoundError):
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def remove(self, kind: Kind[S], id: str, owner: str) -> None:  # noqa: A002 - the field's word
        """Tear down and destroy one of our own resources; nothing if it is gone."""
        request = cosi.DestroyRequest(kind.namespace, kind.name, id, cosi.OwnerOptions(owner))
        try:
            await self._tear_down(kind, id, request)
            await self._call(cosi.DESTROY, request)
        except NotFoundError:
            return

    async def _tear_down(self, kind: Kind[S], id: str, request: cosi.DestroyRequest) -> None:  # noqa: A002 - the field's word
        try:
            await self._call(cosi.TEARDOWN, request)
        except UnsupportedError:
            await self.change(kind, id, _torn_down)

    async def watch(self, kind: Kind[S], options: cosi.WatchOptions) -> AsyncGenerator[tuple[cosi.Event, ...], None]:
        """The events of a kind, for as long as the stream lives; it ends with an error, never just so."""
        request = cosi.WatchRequest(kind.namespace, kind.name, options=options, api_version=1)
        async with aclosing(self._stream(cosi.WATCH, request, None)) as responses:
            async for response in responses:
                yield response.event
        raise TemporaryError("Omni ended a watch", retry_after=errors.SOON)

    async def _call(self, method: Method[Request, Answer], request: Request) -> Answer:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method.name)
        try:
            raw = await call(protobuf.encode(request), metadata=self._signed(method.name), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise await self._explained(method.name, error) from error
        return protobuf.decode(method.answer, raw)

    async def _stream(
        self, method: Method[Request, Answer], request: Request, timeout: float | None
    ) -> AsyncGenerator[Answer, None]:
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(method.name)
        stream = call(protobuf.encode(request), metadata=self._signed(method.name), timeout=timeout)
        try:
            async for raw in stream:
                yield protobuf.decode(method.answer, raw)
        except grpc.aio.AioRpcError as error:
            raise await self._explained(method.name, error) from error
        finally:
            stream.cancel()

    def _signed(self, method: str) -> tuple[tuple[str, str], ...]:
        return self._credentials.headers(method, self._clock())

    async def _explained(self, method: str, error: grpc.aio.AioRpcError) -> BootwrightError:
        date = errors.server_date(error.initial_metadata()) or errors.server_date(error.trailing_metadata())
        if date is None and error.code() is grpc.StatusCode.UNAUTHENTICATED:
            date = await self._server_clock()
        return errors.explain(
            Failure(
                method,
                error.code(),
                error.details() or "",
                self._clock(),
                date,
                self._credentials.expires_at,
                self._credentials.account.key.created,
            )
        )


def _torn_down(resource: Resource) -> Resource | None:
    if resource.metadata.phase == cosi.TEARING_DOWN:
        return None
    return replace(resource, metadata=replace(resource.metadata, phase=cosi.TEARING_DOWN))


def without(resource: Resource, finalizers: Sequence[str]) -> Resource | None:
    """The resource without these; None if it has none of them."""
    kept = tuple(each for each in resource.metadata.finalizers if each not in finalizers)
    if kept == resource.metadata.finalizers:
        return None
    return replace(resource, metadata=replace(resource.metadata, finalizers=kept))
