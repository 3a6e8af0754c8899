"""The real link against the real reference manager, over TLS on loopback, while both ends break."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from provider.domain.errors import NotFoundError
from provider.domain.machine import Acceptance, Desired
from provider.kit.clock import utc_now
from provider.kit.signal import Signal
from provider.kit.unixhttp import UnixHttpError
from provider.manager.link import ManagerLink
from provider.reference_manager.client import Client, control_socket
from provider.store import outbox
from provider.store.database import Database
from provider.store.outbox import Outbox

PORT = 9555
PATIENCE = 60.0  # seconds


class Desk:
    """Takes what is wanted of machine m-1."""

    def __init__(self, tell_all: Callable[[], Awaitable[None]]) -> None:
        self.wanted: list[Desired] = []
        self.rang = Signal()
        self.resyncs = 0
        self._tell_all = tell_all

    async def desire(self, machine_id: str, revision: int, desired: Desired) -> bool:
        if machine_id != "m-1":
            raise NotFoundError(f"there is no machine {machine_id}")
        if self.wanted and revision <= self.wanted[-1].revision:
            return False
        self.wanted.append(desired)
        self.rang.ring()
        return True

    async def resync(self) -> None:
        self.resyncs += 1
        await self._tell_all()


class Ends:
    """A manager process that can be killed, and a link with a real outbox."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.rang = Signal()
        self.outbox = Outbox(database, self.rang)
        self.desk = Desk(lambda: self.tell(1))
        self._process: asyncio.subprocess.Process | None = None

    async def start_manager(self) -> None:
        command = ("-m", "provider", "manager", "serve", "--state", str(self.folder), "--listen", f"127.0.0.1:{PORT}")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(PATIENCE):
            while not await self._answers():
                await asyncio.sleep(0.05)

    async def kill_manager(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def _answers(self) -> bool:
        try:
            async with Client(control_socket(self.folder)) as client:
                await client.providers()
        except UnixHttpError:
            return False
        return True

    async def tell(self, count: int) -> None:
        """Put observed states of m-1 into the outbox."""

        def write(session: outbox.Session) -> None:
            for _ in range(count):
                outbox.add(session, [outbox.News("observed", "m-1", {"phase": "pending"}, utc_now())])

        await self.database.write(write)
        self.rang.ring()

    def link(self, token: str = "") -> ManagerLink:
        return ManagerLink(
            url=f"wss://127.0.0.1:{PORT}/link",
            token=token or (self.folder / "token").read_text().strip(),
            ca_file=self.folder / "ca.pem",
            heartbeat=timedelta(seconds=1),
            provider="rack",
            version="1",
            labels={},
            outbox=self.outbox,
            desk=self.desk,
            first_pause=timedelta(milliseconds=50),
        )

    async def heard(self, count: int) -> list[int]:
        """Wait until the manager has applied so many items; gives all their numbers, in the order of application."""
        numbers: list[int] = []
        after = 0
        async with asyncio.timeout(PATIENCE), Client(control_socket(self.folder)) as client:
            while len(numbers) < count:
                for row in await client.watch(after, wait=5):
                    numbers.append(int(str(row["sequence"])))
                    after = int(str(row["id"]))
        return numbers


def between(tmp_path: Path, use: Callable[[Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/provider.db")
        ends = Ends(tmp_path / "manager", database)
        try:
            await ends.start_manager()
            async with asyncio.timeout(100):
                await use(ends)
        finally:
            await ends.kill_manager()
            database.close()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def running(link: ManagerLink) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(link.run())
        yield
        task.cancel()


def test_thousands_arrive_once_and_in_order_over_kills(tmp_path: Path) -> None:
    """Items are lost, applied twice or swapped when manager or link die while they flow (invariant 3)."""

    async def use(ends: Ends) -> None:
        await ends.tell(1000)
        async with running(ends.link()):
            await ends.heard(100)
            await ends.kill_manager()
            await ends.tell(1000)
            await ends.start_manager()
            await ends.heard(1100)
        await ends.tell(1000)
        async with running(ends.link()):
            numbers = await ends.heard(3000)
        assert numbers == list(range(1, 3001))
        async with asyncio.timeout(PATIENCE), running(ends.link()):
            while await ends.outbox.after(0, 1):
                await asyncio.sleep(0.05)

    between(tmp_path, use)


def test_wishes_arrive_also_after_an_absence(tmp_path: Path) -> None:
    """What was wanted while the provider was away is never heard, or an old wish comes after a new one."""

    async def use(ends: Ends) -> None:
        await ends.tell(1)
        async with running(ends.link()):
            await ends.heard(1)
        async with Client(control_socket(ends.folder)) as client:
            await client.want("m-1", "accept")
            await client.want("m-1", "wipe")
            async with asyncio.timeout(PATIENCE), running(ends.link()):
                while len(ends.desk.wanted) < 1:
                    await ends.desk.rang.ticket().wait()
                assert ends.desk.wanted[-1].acceptance is Acceptance.ACCEPTED
                first = ends.desk.wanted[-1].wipe_id
                await client.want("m-1", "wipe")
                while ends.desk.wanted[-1].wipe_id == first:
                    await ends.desk.rang.ticket().wait()
        assert [wanted.revision for wanted in ends.desk.wanted] == sorted(w.revision for w in ends.desk.wanted)

    between(tmp_path, use)


def test_manager_that_forgot_is_told_everything(tmp_path: Path) -> None:
    """A manager restored from nothing stays empty until the next change of each machine."""

    async def use(ends: Ends) -> None:
        await ends.tell(5)
        async with running(ends.link()):
            await ends.heard(5)
            async with asyncio.timeout(PATIENCE):
                while await ends.outbox.after(0, 1):
                    await asyncio.sleep(0.05)
        await ends.kill_manager()
        for file in ends.folder.glob("manager.db*"):
            file.unlink()
        await ends.start_manager()
        async with running(ends.link()):
            assert await ends.heard(1) == [6]
        assert ends.desk.resyncs == 1

    between(tmp_path, use)


@pytest.mark.parametrize(("token", "expected"), [("wrong token of some length", "status 401")])
def test_refused_link_says_why(tmp_path: Path, token: str, expected: str) -> None:
    """A wrong token is only seen in the manager's log."""

    async def use(ends: Ends) -> None:
        link = ends.link(token)
        async with asyncio.timeout(PATIENCE), running(link):
            while not link.status()["last_error"]:
                await asyncio.sleep(0.05)
        assert expected in str(link.status()["last_error"])
        assert token not in str(link.status())

    between(tmp_path, use)


def test_forgotten_machine_is_gone_and_may_come_back(tmp_path: Path) -> None:
    """A machine that the provider forgot stays at the manager, or what was wanted of it holds for the next one of its id."""

    async def use(ends: Ends) -> None:
        await ends.tell(1)
        async with running(ends.link()), Client(control_socket(ends.folder)) as client:
            await ends.heard(1)
            await client.want("m-1", "accept")
            await ends.database.write(lambda session: outbox.forget(session, ["m-1"], utc_now(), "nobody wants it"))
            ends.rang.ring()
            await ends.heard(2)
            assert await client.machines() == []
            await ends.tell(1)
            await ends.heard(3)
            (back,) = await client.machines()
        assert back["revision"] == 0

    between(tmp_path, use)


def test_machine_that_went_and_came_back_while_the_manager_was_away(tmp_path: Path) -> None:
    """In one batch with its end a machine keeps what was wanted of the one before it, or is not there."""

    async def use(ends: Ends) -> None:
        await ends.tell(1)
        async with Client(control_socket(ends.folder)) as client:
            async with running(ends.link()):
                await ends.heard(1)
                await client.want("m-1", "accept")
            await ends.tell(1)
            await ends.database.write(lambda session: outbox.forget(session, ["m-1"], utc_now(), "nobody wants it"))
            await ends.tell(1)
            async with running(ends.link()):
                await ends.heard(4)
            (back,) = await client.machines()
        assert back["revision"] == 0

    between(tmp_path, use)


def test_numbers_that_were_taken_back_are_no_loss(tmp_path: Path) -> None:
    """The manager looks as if it had lost its state, and is told everything at each reconnect, because of a gap."""

    async def use(ends: Ends) -> None:
        await ends.tell(outbox.MAY_BE_SENT)
        discovered = outbox.News("event", "m-2", {"name": "machine.discovered", "data": {}}, utc_now())
        await ends.database.write(lambda session: outbox.add(session, [discovered]))
        await ends.database.write(lambda session: outbox.forget(session, ["m-2"], utc_now(), "nobody wants it"))
        async with running(ends.link()):
            await ends.heard(outbox.MAY_BE_SENT)
            async with asyncio.timeout(PATIENCE):
                while await ends.outbox.after(0, 1):
                    await asyncio.sleep(0.05)
        await ends.tell(1)
        async with running(ends.link()):
            assert (await ends.heard(outbox.MAY_BE_SENT + 1))[-1] == outbox.MAY_BE_SENT + 2
        assert ends.desk.resyncs == 0

    between(tmp_path, use)
