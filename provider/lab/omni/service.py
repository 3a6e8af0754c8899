"""
The gRPC service cosi.resource.State, and what all services here have in common: signature, faults, counters, codes.

Whatever is written goes to the log with its outcome, in the order in which it was done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from provider.kit.jsontypes import JsonObject
from provider.lab.omni import access, protos, queries, resources
from provider.lab.omni.access import Access
from provider.lab.omni.accounts import Caller
from provider.lab.omni.faults import Faults
from provider.lab.omni.history import Event, Watch
from provider.lab.omni.protos import Message
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.signatures import Signatures
from provider.lab.omni.state import State
from provider.lab.omni.storage import Storage

SERVICE = "cosi.resource.State"

Unary = Callable[[Caller, Message], Awaitable[Message]]
Stream = Callable[[Caller, Message], AsyncIterator[Message]]


class Calls:
    """Wraps handlers of methods into what a gRPC server takes."""

    def __init__(self, signatures: Signatures, faults: Faults) -> None:
        self._signatures = signatures
        self._faults = faults
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Calls that ended, by caller (empty if nobody knows), method and code."""
        self.open_streams: Counter[str] = Counter()
        """Streams that are open now, by caller."""

    def unary(self, path: str, request: Any, handler: Unary) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method with one answer."""

        async def call(message: Message, context: Any) -> Message:
            identity, code, text = "", grpc.StatusCode.OK, ""
            try:
                caller = await self._admit(path, context)
                identity = caller.identity
                return await handler(caller, message)
            except CallError as error:
                code, text = error.code, str(error)
            except BaseException as error:  # Cancelled, or a fault of ours: the library answers UNKNOWN and logs it.
                code = _code_of(error)
                raise
            finally:
                self.counts[identity, _last(path), code.name] += 1
            return await context.abort(code, text)

        return _handler(grpc.unary_unary_rpc_method_handler, call, request)

    def stream(self, path: str, request: Any, handler: Stream) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method with a stream of answers, which a fault may reset."""

        async def call(message: Message, context: Any) -> None:
            identity, code, text = "", grpc.StatusCode.OK, ""
            try:
                caller = await self._admit(path, context)
                identity = caller.identity
                self.open_streams[identity] += 1
                await self._pump(handler(caller, message), context)
            except CallError as error:
                code, text = error.code, str(error)
            except BaseException as error:
                code = _code_of(error)
                raise
            finally:
                self.open_streams[identity] -= bool(identity)
                self.counts[identity, _last(path), code.name] += 1
            if code is not grpc.StatusCode.OK:
                await context.abort(code, text)

        return _handler(grpc.unary_stream_rpc_method_handler, call, request)

    async def _admit(self, path: str, context: Any) -> Caller:
        await self._faults.before_call(_last(path))
        return self._signatures.caller(path, context.invocation_metadata())

    async def _pump(self, answers: AsyncIterator[Message], context: Any) -> None:
        """Send answers until they end, or a reset is demanded."""
        reset = self._faults.streams_reset.ticket()
        try:
            async with asyncio.TaskGroup() as group:
                bell = group.create_task(_reset(reset), name="reset of a stream")
                async for answer in answers:
                    await context.write(answer)
                bell.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors


async def _reset(demanded: asyncio.Event) -> None:
    await demanded.wait()
    raise CallError(grpc.StatusCode.UNAVAILABLE, "stream reset on demand")


class StateService:
    """The methods of cosi.resource.State."""

    def __init__(self, state: State, storage: Storage, faults: Faults) -> None:
        self._state = state
        self._storage = storage
        self._faults = faults
        self._access = Access(state)
        self._cosi = protos.load().cosi

    def handler(self, calls: Calls) -> grpc.GenericRpcHandler:
        """For a gRPC server."""
        unary: dict[str, Unary] = {
            "Get": self.get,
            "Create": self.create,
            "Update": self.update,
            "Destroy": self.destroy,
            "Teardown": self.teardown,
            "TeardownAndDestroy": self.teardown_and_destroy,
        }
        streams: dict[str, Stream] = {"List": self.list, "Watch": self.watch}
        methods = {name: calls.unary(*self._method(name), each) for name, each in unary.items()}
        methods |= {name: calls.stream(*self._method(name), each) for name, each in streams.items()}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _method(self, name: str) -> tuple[str, Any]:
        return f"/{SERVICE}/{name}", getattr(self._cosi, f"{name}Request")

    async def get(self, caller: Caller, request: Message) -> Message:
        """One resource."""
        resource = self._access.get(caller, request.namespace, request.type, request.id)
        return self._cosi.GetResponse(resource=resources.to_message(resource))

    async def list(self, caller: Caller, request: Message) -> AsyncIterator[Message]:
        """Resources of a kind, sorted by id."""
        match = queries.matcher(request.options.label_query, request.options.id_query)
        for resource in self._access.list(caller, request.namespace, request.type, match):
            yield self._cosi.ListResponse(resource=resources.to_message(resource))

    async def create(self, caller: Caller, request: Message) -> Message:
        """A new resource."""
        resource = resources.parse(request.resource)
        with self._logged(caller, "Create", resource) as logged:
            logged += [self._access.create(caller, resource, request.options.owner)]
        return self._cosi.CreateResponse(resource=resources.to_message(logged[0]))

    async def update(self, caller: Caller, request: Message) -> Message:
        """Another version of a resource."""
        resource = resources.parse(request.new_resource)
        phase = request.options.expected_phase if request.options.HasField("expected_phase") else None
        if phase not in (None, resources.RUNNING, resources.TEARING_DOWN):
            raise CallError(grpc.StatusCode.UNKNOWN, f"unknown phase: {phase}")
        self._faults.before_update(self._state, resource)
        with self._logged(caller, "Update", resource) as logged:
            logged += [self._access.update(caller, resource, request.options.owner, phase)]
        return self._cosi.UpdateResponse(resource=resources.to_message(logged[0]))

    async def destroy(self, caller: Caller, request: Message) -> Message:
        """The end of a resource."""
        with self._logged(caller, "Destroy", self._pointed(request)):
            self._access.destroy(caller, request.namespace, request.type, request.id, request.options.owner)
        return self._cosi.DestroyResponse()

    async def teardown(self, caller: Caller, request: Message) -> Message:
        """The beginning of the end."""
        key = (request.namespace, request.type, request.id)
        with self._logged(caller, "Teardown", self._pointed(request)):
            ready = self._access.teardown(caller, *key, request.options.owner)
        return self._cosi.TeardownResponse(destroy_ready=ready)

    async def teardown_and_destroy(self, caller: Caller, request: Message) -> Message:
        """Both, when its finalizers are gone."""
        key = (request.namespace, request.type, request.id)
        with self._logged(caller, "TeardownAndDestroy", self._pointed(request)):
            await self._access.teardown_and_destroy(caller, *key, request.options.owner)
        return self._cosi.TeardownAndDestroyResponse()

    async def watch(self, caller: Caller, request: Message) -> AsyncIterator[Message]:
        """Events, after an answer without any that says: the watch is there."""
        begin = self._begin_one(request) if request.HasField("id") else self._begin_kind(request)
        watch, seen = self._access.watch(caller, request.namespace, request.type, begin)
        yield self._cosi.WatchResponse()
        events = watch.first
        together = request.options.aggregated and not request.HasField("id")
        while True:
            visible = [event for event in events if access.shown(event, seen)]
            messages = [self._event(event) for event in visible if request.api_version >= 1 or _is_old(event)]
            if together and events:
                yield self._cosi.WatchResponse(event=messages)  # Maybe without any: the real one sends that, too.
            elif not together:
                for message in messages:
                    yield self._cosi.WatchResponse(event=[message])
            if events and events[-1].kind == "ERRORED":
                await asyncio.Event().wait()  # The real one falls silent and leaves it to the client to go.
            events = await watch.next()

    def _begin_kind(self, request: Message) -> Callable[[], Watch]:
        options = request.options
        match = queries.matcher(options.label_query, options.id_query)
        return lambda: self._state.watch_kind(
            request.namespace,
            request.type,
            match,
            bootstrap=options.bootstrap_contents,
            bookmark=options.start_from_bookmark if options.HasField("start_from_bookmark") else None,
            tail=max(options.tail_events, 0),
            bootstrap_bookmark=options.bootstrap_bookmark,
        )

    def _begin_one(self, request: Message) -> Callable[[], Watch]:
        options = request.options
        for name in ("bootstrap_contents", "label_query"):
            if getattr(options, name):
                text = f"{name.replace('_', ' ')} is not implemented for resource watch"
                raise CallError(grpc.StatusCode.UNIMPLEMENTED, text)
        return lambda: self._state.watch(
            request.namespace,
            request.type,
            request.id,
            bookmark=options.start_from_bookmark if options.HasField("start_from_bookmark") else None,
            tail=max(options.tail_events, 0),
        )

    def _event(self, event: Event) -> Message:
        return self._cosi.Event(
            event_type=self._cosi.EventType.Value(event.kind),
            resource=None if event.resource is None else resources.to_message(event.resource),
            old=None if event.old is None else resources.to_message(event.old),
            error=event.error or None,
            bookmark=event.bookmark or None,
        )

    def _pointed(self, request: Message) -> Resource:
        """The resource that a request names, as it stands now."""
        found = self._state.find(request.namespace, request.type, request.id)
        return found or Resource(request.namespace, request.type, request.id)

    @contextlib.contextmanager
    def _logged(self, caller: Caller, method: str, resource: Resource) -> Any:
        """Write down what was written, or tried; what the block puts into the list is shown in place of `resource`."""
        made: list[Resource] = []
        entry: JsonObject = {"at": self._faults.now().isoformat(), "caller": caller.identity, "method": method}
        code, text = "OK", ""
        try:
            yield made
        except CallError as error:
            code, text = error.code.name, str(error)
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            shown = resources.view(made[0] if made else resource)
            self._storage.write_log({**entry, "code": code, "error": text, "resource": shown})


def _is_old(event: Event) -> bool:
    """Whether clients of API version 0 know such events."""
    return event.kind not in ("BOOTSTRAPPED", "ERRORED")


def _code_of(error: BaseException) -> grpc.StatusCode:
    return grpc.StatusCode.CANCELLED if isinstance(error, asyncio.CancelledError) else grpc.StatusCode.UNKNOWN


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _handler(make: Any, call: Any, request: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
    handler: grpc.RpcMethodHandler[bytes, bytes] = make(
        call, request_deserializer=request.FromString, response_serializer=lambda message: message.SerializeToString()
    )
    return handler
