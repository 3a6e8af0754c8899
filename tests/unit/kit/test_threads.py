"""Blocking work in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from provider.kit.threads import Threads


def test_result_and_error_come_back() -> None:
    """What a thread gives or raises is lost."""

    async def main() -> None:
        threads = Threads("t", 1)
        try:
            assert await threads.run(int, "7") == 7
            with pytest.raises(ValueError, match="invalid literal"):
                await threads.run(int, "seven")
        finally:
            threads.close()

    asyncio.run(main())


def test_cancellation_waits_for_the_thread() -> None:
    """Whoever cancelled goes on while the thread still works behind their back."""

    async def main() -> None:
        threads = Threads("t", 1)
        began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            go_on.wait(10)
            ended.set()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(threads.run(work))
            await asyncio.to_thread(began.wait, 10)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            go_on.set()
        assert task.cancelled()
        assert ended.is_set()
        threads.close()

    asyncio.run(main())
