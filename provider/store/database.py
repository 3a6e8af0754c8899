"""
The database behind the store.

All writes go through one thread. It takes what waits, does it in one transaction and commits once: a thousand leases cost a
few fsyncs, and nobody is told "done" before the commit returned. A piece of work that raises is rolled back alone: the
transaction is begun again, with a savepoint for each piece. Urgent work, which is short, goes before all other work, and in
commits of its own. Reads run in other threads and see the last commit (WAL).
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy
import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import event, exc
from sqlmodel import Session, create_engine

from provider.domain.errors import PermanentError, TemporaryError
from provider.kit.threads import Threads

log = structlog.get_logger()

T = TypeVar("T")
Work = Callable[[Session], T]

GROUP = 32
"""Most pieces of work in one commit: a tenth of a second, which is what urgent work may have to wait."""

READERS = 2
"""Threads that read; SQLite reads are short."""


class _Job(Generic[T]):
    """One piece of work on its way through the writer thread."""

    def __init__(self, work: Work[T], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.done: asyncio.Future[T] = loop.create_future()
        self._loop = loop
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self, session: Session) -> None:
        """Do the work, up to the statements that it leads to."""
        self._error = None  # Of a transaction that was given up.
        self._result = self.work(session)
        session.flush()

    def fail(self, error: BaseException) -> None:
        """Nothing of the work is left, and `error` is why."""
        self._error = error

    def finish(self, error: BaseException | None = None) -> None:
        self._loop.call_soon_threadsafe(self._resolve, error or self._error)

    def _resolve(self, error: BaseException | None) -> None:
        if self.done.cancelled():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(self._result)  # type: ignore[arg-type]  # None only where T is None


class Database:
    """Open with `open`, which also brings the schema up to date; `close` waits for the writer."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._urgent: deque[_Job[Any]] = deque()
        self._others: deque[_Job[Any]] = deque()
        self._stopping = False
        self._news = threading.Condition()
        self._readers = Threads("store-read", READERS)
        self._writer = threading.Thread(target=self._write_for_ever, name="store-write", daemon=True)

    @classmethod
    def open(cls, url: str) -> Database:
        """
        Connect, migrate to the newest schema and start the writer thread; blocks.

        Raises:
            PermanentError: If the database cannot be opened or migrated.
        """
        database = cls(url)
        try:
            database.migrate()
        except (exc.SQLAlchemyError, sqlite3.Error) as error:
            where = database._engine.url.render_as_string(hide_password=True)
            raise PermanentError(
                f"the database {where} cannot be used: {error.__cause__ or error}",
                hint="check store.url, the disk behind provider.state_dir and who may write there",
            ) from error
        database._writer.start()
        return database

    def migrate(self) -> None:
        """Run the Alembic migrations that are missing."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        with self._engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    async def write(self, work: Work[T], *, urgent: bool = False) -> T:
        """
        Run `work(session)` in the writer thread; returns after the commit is on disk.

        Work of one urgency is done in order. `work` must not keep the session or any row, and may be called again if its
        first transaction is given up, so it changes nothing besides. What it adds and sets is flushed when it is done: its
        own queries do not see that, unless it flushes before. What it raises comes out here, and rolls back itself alone.

        Raises:
            TemporaryError: If the database could not commit (disk full, connection lost); nothing was changed.
        """
        job = _Job(work, asyncio.get_running_loop())
        with self._news:
            (self._urgent if urgent else self._others).append(job)
            self._news.notify()
        return await job.done

    async def read(self, work: Work[T]) -> T:
        """Run `work(session)` in a reader thread; it must not write, nor keep the session or any row."""
        return await self._readers.run(self._read, work)

    def close(self) -> None:
        """Commit what waits, stop the writer and close all connections; blocks."""
        if self._writer.is_alive():
            with self._news:
                self._stopping = True
                self._news.notify()
            self._writer.join()
        self._readers.close()
        self._engine.dispose()

    def _read(self, work: Work[T]) -> T:
        with Session(self._engine) as session:
            return work(session)

    def _write_for_ever(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_Job[Any]]:
        """Wait for work, and take what is most urgent; empty when there is none and none will come."""
        with self._news:
            self._news.wait_for(lambda: self._urgent or self._others or self._stopping)
            jobs = self._urgent or self._others
            return [jobs.popleft() for _ in range(min(len(jobs), GROUP))]

    def _commit(self, group: Sequence[_Job[Any]]) -> None:
        try:
            if not self._done_together(group):
                self._do_apart(group)
        except exc.SQLAlchemyError as error:
            log.error("store.commit_failed", error=str(error.__cause__ or error), lost=len(group))
            failure = TemporaryError(
                f"the database did not take a change: {error.__cause__ or error}",
                retry_after=timedelta(seconds=5),
                hint="check free space and health of the disk below provider.state_dir",
            )
            for job in group:
                job.finish(failure)
        else:
            for job in group:
                job.finish()

    def _done_together(self, group: Sequence[_Job[Any]]) -> bool:
        """Do all of it, or nothing if a piece of work raises: savepoints would cost every group what few need."""
        with Session(self._engine, expire_on_commit=False, autoflush=False) as session:
            for job in group:
                try:
                    job.run(session)
                except exc.OperationalError:
                    raise
                except Exception as error:  # noqa: BLE001 - handed to the caller, whose error it is
                    job.fail(error)
                    return len(group) == 1
            session.commit()
        return True

    def _do_apart(self, group: Sequence[_Job[Any]]) -> None:
        """Do what can be done."""
        with Session(self._engine, expire_on_commit=False, autoflush=False) as session:
            for job in group:
                try:
                    with session.begin_nested():
                        job.run(session)
                except exc.OperationalError:
                    raise
                except Exception as error:  # noqa: BLE001 - handed to the caller, whose error it is
                    job.fail(error)
            session.commit()


def _engine(url: str) -> sqlalchemy.Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling breaks savepoints; SQLAlchemy's documentation of pysqlite tells this cure.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # WAL with NORMAL loses the last commits when the power goes.
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=10000")


def _begin_sqlite(connection: sqlalchemy.Connection) -> None:
    writes = threading.current_thread().name == "store-write"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
