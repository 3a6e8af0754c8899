"""A disk that is a file: does what a block device does, keeps what it was told, and can be made to misbehave."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

Call = str | tuple[str, int, int]


class FileDisk:
    """A `BlockDevice` on a file. `fail` makes a method raise; `ignore_writes_at` names a byte that never changes."""

    def __init__(self, path: Path) -> None:
        self.size = path.stat().st_size
        self.calls: list[Call] = []
        self.fail: dict[str, OSError] = {}
        self.ignore_writes_at: int | None = None
        self.closed = False
        self._path = path
        self._file = path.open("r+b", buffering=0)

    @classmethod
    def filled(cls, path: Path, size: int, pattern: bytes) -> Self:
        """Make a disk full of a pattern."""
        block = pattern * (1 << 20)
        with path.open("wb") as file:
            while file.tell() < size:
                file.write(block[: size - file.tell()])
        return cls(path)

    def discard(self, offset: int, length: int) -> None:
        self._note("discard", offset, length)

    def zero(self, offset: int, length: int) -> None:
        self._note("zero", offset, length)
        kept = self._byte_that_stays()
        self._file.seek(offset)
        self._file.write(bytes(length))
        if self.ignore_writes_at is not None and offset <= self.ignore_writes_at < offset + length:
            self._file.seek(self.ignore_writes_at)
            self._file.write(kept)

    def flush(self) -> None:
        self.calls.append("flush")
        self._raise("flush")

    def read(self, offset: int, length: int) -> bytes:
        self._raise("read")
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        self.closed = True
        self._file.close()

    def content(self) -> bytes:
        """Everything, seen from outside."""
        return self._path.read_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, name: str, offset: int, length: int) -> None:
        assert offset % 4096 == 0
        assert length % 4096 == 0 or offset + length == self.size
        assert 0 < length <= self.size - offset
        self.calls.append((name, offset, length))
        self._raise(name)

    def _raise(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def _byte_that_stays(self) -> bytes:
        if self.ignore_writes_at is None:
            return b""
        self._file.seek(self.ignore_writes_at)
        return self._file.read(1)
