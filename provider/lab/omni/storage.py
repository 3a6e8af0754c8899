"""
What a restarted fake still knows: resources and the log of writes, in SQLite.

Writes reach the kernel, not the disk: the process may be killed at any time, the machine may not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from provider.kit.jsontypes import JsonObject
from provider.lab.omni import protos, resources
from provider.lab.omni.resources import Resource

LOG_KEPT = 100_000
"""Entries; the oldest are forgotten."""


class Storage:
    """A database file, or memory alone where there is no path."""

    def __init__(self, path: Path | None) -> None:
        self._db = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS resource (namespace, type, id, content BLOB, PRIMARY KEY (namespace, type, id))"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT)")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def load(self) -> Iterator[Resource]:
        """Everything that was put and not dropped."""
        kind = protos.load().cosi.Resource
        for (content,) in self._db.execute("SELECT content FROM resource ORDER BY namespace, type, id"):
            yield resources.parse(kind.FromString(content))

    def revision(self) -> int:
        """How much was ever written, as `put` and `drop` were told."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def put(self, resource: Resource, revision: int) -> None:
        """Keep it."""
        content = resources.to_message(resource).SerializeToString()
        self._db.execute(
            "INSERT OR REPLACE INTO resource VALUES (?, ?, ?, ?)",
            (resource.namespace, resource.type, resource.id, content),
        )
        self._db.execute(f"PRAGMA user_version = {revision}")

    def drop(self, resource: Resource, revision: int) -> None:
        """Forget it."""
        self._db.execute(
            "DELETE FROM resource WHERE namespace = ? AND type = ? AND id = ?",
            (resource.namespace, resource.type, resource.id),
        )
        self._db.execute(f"PRAGMA user_version = {revision}")

    def write_log(self, entry: JsonObject) -> None:
        """Append to the log."""
        number = self._db.execute("INSERT INTO log (entry) VALUES (?)", (json.dumps(entry),)).lastrowid or 0
        if number % 1000 == 0:
            self._db.execute("DELETE FROM log WHERE number <= ?", (number - LOG_KEPT,))

    def log(self, after: int = 0, limit: int = LOG_KEPT) -> list[JsonObject]:
        """Entries in their order, each with its `number`."""
        rows = self._db.execute(
            "SELECT number, entry FROM log WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        )
        return [{"number": number, **json.loads(entry)} for number, entry in rows]
