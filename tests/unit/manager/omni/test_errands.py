"""Errands: a key in two hands at once, a call that is lost, or one key that fails and holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from provider.domain.errors import TemporaryError
from provider.manager.omni import errands
from provider.manager.omni.errands import Errands

PATIENCE = 5.0


def errands_of(
    see_to: Callable[[str], Awaitable[None]], use: Callable[[Errands], Awaitable[None]], hands: int = 4
) -> None:
    async def main() -> None:
        made = Errands(see_to, hands, what="thing")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            running = group.create_task(made.run())
            await use(made)
            running.cancel()

    asyncio.run(main())


async def idle(made: Errands) -> None:
    while len(made):
        await asyncio.sleep(0)


def test_called_while_it_waits_is_seen_to_once() -> None:
    """A hundred changes of one machine are a hundred writes."""
    seen: list[str] = []

    async def see_to(key: str) -> None:
        seen.append(key)

    async def use(made: Errands) -> None:
        made.call("a", "b", "a")
        made.call("b")
        await idle(made)
        assert sorted(seen) == ["a", "b"]

    errands_of(see_to, use)


def test_called_while_it_is_seen_to_comes_again() -> None:
    """News that come while the old state is being written are forgotten; or two hands write one machine."""
    at_work, most, seen = 0, 0, 0
    may_end = asyncio.Event()

    async def see_to(_key: str) -> None:
        nonlocal at_work, most, seen
        at_work += 1
        most = max(most, at_work)
        seen += 1
        await may_end.wait()
        at_work -= 1

    async def use(made: Errands) -> None:
        made.call("a")
        while not at_work:
            await asyncio.sleep(0)
        made.call("a")
        for _ in range(10):
            await asyncio.sleep(0)
        assert seen == 1
        may_end.set()
        await idle(made)
        assert (seen, most) == (2, 1)

    errands_of(see_to, use)


def test_failure_comes_again_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that Omni refuses is never tried again; or all wait for it."""
    monkeypatch.setattr(errands, "FIRST_PAUSE", timedelta(milliseconds=1))
    tries: list[str] = []

    async def see_to(key: str) -> None:
        tries.append(key)
        if key == "bad" and tries.count("bad") < 4:
            raise TemporaryError("not now", retry_after=timedelta(0))

    async def use(made: Errands) -> None:
        made.call("bad", "good")
        while tries.count("bad") < 4:
            await asyncio.sleep(0.001)
        assert tries.index("good") <= 1

    errands_of(see_to, use, hands=1)


def test_mistake_of_ours_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine that we cannot handle ends the connection of all of them, and does so again with each new one."""
    monkeypatch.setattr(errands, "FIRST_PAUSE", timedelta(milliseconds=20))
    seen: list[str] = []

    async def see_to(key: str) -> None:
        seen.append(key)
        if key == "broken":
            raise RuntimeError("a bug")

    async def use(made: Errands) -> None:
        made.call("broken", "a")
        while seen.count("broken") < 2:
            await asyncio.sleep(0.01)
        assert "a" in seen

    errands_of(see_to, use, hands=1)


def test_stopped_in_the_middle_comes_again() -> None:
    """What was being seen to, or waited, when a connection ended, is forgotten: nobody tells it again."""
    may_end = asyncio.Event()
    seen: list[str] = []

    async def see_to(key: str) -> None:
        await may_end.wait()
        seen.append(key)

    async def main() -> None:
        made = Errands(see_to, 1, what="thing")
        made.call("a", "b")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            running = group.create_task(made.run())
            await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])
            may_end.set()
            running = group.create_task(made.run())
            await idle(made)
            running.cancel()

    asyncio.run(main())
    assert sorted(seen) == ["a", "b"]
