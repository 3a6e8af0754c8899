"""Two providers with one id: both act, or none does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from provider.domain.errors import PermanentError
from provider.manager.omni import presence
from provider.manager.omni.presence import ALIVE, MARK, MARKED, DuplicateError, Heartbeat, Provider, StrangerError
from provider.manager.omni.state import Endpoint
from provider.wire import omni, protobuf
from provider.wire.cosi import Metadata, Resource, Spec

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def beat(mark: str | None, at: datetime | None, marked: datetime | None = None) -> Resource:
    """`marked`: when the mark was set, if not with this beat."""
    annotations = {} if mark is None else {MARK: mark, MARKED: str((marked or at or NOW).isoformat())}
    spec = protobuf.encode(omni.InfraProviderHealthStatus(at))
    return Resource(Metadata(type=omni.PROVIDER_HEALTH_STATUSES.name, id="bm", annotations=annotations), Spec(spec))


@pytest.mark.parametrize(
    ("mark", "at", "whose"),
    [
        ("ours", NOW, None),
        ("theirs", NOW - ALIVE, None),
        ("theirs", None, None),
        (None, NOW - ALIVE, None),
        ("theirs", NOW - ALIVE + timedelta(seconds=1), "another Bootwright"),
        ("theirs", NOW + timedelta(minutes=4), "another Bootwright"),
        (None, NOW, "Sidero's own provider"),
    ],
)
def test_whose_heartbeat(mark: str | None, at: datetime | None, whose: str | None) -> None:
    """A restart waits for itself, a dead one is waited for for ever, or a live one is not noticed."""
    if whose is None:
        presence.refuse_duplicate(beat(mark, at), "ours", NOW)
        return
    with pytest.raises(DuplicateError, match=whose):
        presence.refuse_duplicate(beat(mark, at), "ours", NOW)


@pytest.mark.parametrize(("mark", "is_refused"), [(None, False), ("ours", False), ("theirs", True)])
def test_whose_place(mark: str | None, is_refused: bool) -> None:
    """An empty store takes the place of a lost one, and wipes whatever is in use."""
    annotations = {} if mark is None else {MARK: mark}
    status = Resource(Metadata(type=omni.PROVIDER_STATUSES.name, id="bm", annotations=annotations), Spec(b""))
    if not is_refused:
        presence.refuse_stranger(status, "ours")
        return
    with pytest.raises(StrangerError, match="what it has wiped is not known here"):
        presence.refuse_stranger(status, "ours")


@pytest.mark.parametrize(
    ("at", "last", "is_copy"),
    [
        (NOW, None, False),
        (NOW, NOW, False),
        (NOW - timedelta(seconds=9), NOW, False),
        (NOW, NOW - timedelta(seconds=9), True),
        (NOW - ALIVE, NOW - ALIVE - timedelta(seconds=9), False),
        (None, NOW, False),
    ],
)
def test_our_mark_on_anothers_heartbeat(at: datetime | None, last: datetime | None, is_copy: bool) -> None:
    """A copy of our store runs beside us; or we take our own last heartbeat for one of a copy."""
    if not is_copy:
        presence.refuse_duplicate(beat("ours", at), "ours", NOW, last)
        return
    with pytest.raises(DuplicateError, match="a copy of our store"):
        presence.refuse_duplicate(beat("ours", at), "ours", NOW, last)


def test_heartbeat_of_another_over_our_mark() -> None:
    """Sidero's provider leaves our mark as it is: beside us, or after a way back, it is taken for ourselves."""
    left = beat("ours", NOW, marked=NOW - timedelta(seconds=20))
    with pytest.raises(DuplicateError, match="Sidero's own provider"):
        presence.refuse_duplicate(left, "ours", NOW)


def test_heartbeat_that_nobody_can_read() -> None:
    """Nonsense from a newer program keeps us away for ever."""
    resource = Resource(Metadata(type=omni.PROVIDER_HEALTH_STATUSES.name, id="bm"), Spec(b"\xff\xff"))
    presence.refuse_duplicate(resource, "ours", NOW)


@pytest.mark.parametrize(
    ("url", "target", "tls"),
    [
        ("https://omni.example.com", "omni.example.com:443", True),
        ("https://omni.example.com:8443/", "omni.example.com:8443", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", False),
        ("grpc://omni", "omni:80", False),
        ("https://[fd00::1]:1", "[fd00::1]:1", True),
    ],
)
def test_endpoint(url: str, target: str, tls: bool) -> None:
    """As Omni's own tools read it (facts 1.1)."""
    assert Endpoint.parse(url) == Endpoint(target, tls)


@pytest.mark.parametrize("url", ["omni.example.com", "wss://omni", "https://", "https://omni:port", "", "https://[1"])
def test_no_endpoint(url: str) -> None:
    """A typing error is found at the first call, by a name that cannot be resolved."""
    with pytest.raises(PermanentError, match="is no address of an Omni") as caught:
        Endpoint.parse(url)
    assert "https://omni.example.com" in caught.value.hint


def test_beats_in_time_though_calls_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow Omni, or a busy daemon, puts the time of each call on top of the pause, and we are shown as away (facts 8.11)."""
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.5)
    begun: list[float] = []

    class SlowState:
        async def put(self, *_arguments: object, **_more: object) -> Resource:
            begun.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.4)
            return beat("ours", NOW)

    class Endless:
        expires_at = None

    async def main() -> None:
        us = Provider("bm", "BM", "1", "ours", {})
        heart = Heartbeat(SlowState(), us, Endless(), lambda: NOW, str)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(heart.run())
            while len(begun) < 3:
                await asyncio.sleep(0.01)
            running.cancel()

    asyncio.run(main())
    assert begun[2] - begun[0] < 1.5, "twice the time between beats, and not the calls besides"
