"""
Boot images on disk: whole ones only, the least recently used gone first.

An image is a folder below `images`: its kernel, its initial RAM disks, and `image.json`, which says how long each is and with
which arguments the kernel starts. It is made in a folder whose name begins with a dot, every file is flushed to disk, and one
rename makes it an image; it goes by a rename too. So whatever the moment at which the daemon dies, an image is whole or is not
there; the next start clears away the rest. Beside them, `schematics` keeps which id the factory gave to what was posted.

All that is remembered belongs to the loop's thread; the disk is worked on in threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import structlog

from provider.domain.errors import PermanentError, TemporaryError
from provider.kit.threads import Threads
from provider.wire import factory

log = structlog.get_logger()

FRESH_SECONDS = 15 * 60.0
"""An image that was asked for this lately is not thrown away: the machine that has its script comes for its files."""

LEAST_FREE_BYTES = 512 << 20
"""So much of their disk the images leave free: the daemon's own database is on it, as a rule."""

MOST_SCHEMATICS = 4096

_KERNEL = "kernel"
_MANIFEST = "image.json"
_TOUCH_SECONDS = 60.0


@dataclass
class Image:
    """What a machine boots; `arguments` are the factory's."""

    folder: Path
    initrds: int
    arguments: tuple[str, ...]
    size: int
    """Bytes of all files."""
    used: float
    """Wall clock, in seconds; survives a restart as the folder's time of change."""
    holders: int = 0
    """How many are sending a file of it."""

    @property
    def name(self) -> str:
        """Schematic, version and variant: also a part of a URL."""
        return self.folder.name

    @property
    def kernel(self) -> Path:
        """The kernel, or the unified image."""
        return self.folder / _KERNEL

    @property
    def ram_disks(self) -> tuple[Path, ...]:
        """The initial RAM disks; none with a unified image."""
        return tuple(self.folder / f"initrd-{number}" for number in range(self.initrds))


class Images:
    """All images in a folder that no other process writes to; `open` it first."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder / "images"
        self._schematic_folder = folder / "schematics"
        self._most_bytes = most_bytes
        self._images: dict[str, Image] = {}
        self._schematics: dict[str, str] = {}
        self._stagings: set[Staging] = set()
        self._changing = asyncio.Lock()
        """Held by who makes room, or turns what is staged into an image."""
        self._serial = 0
        self._threads = Threads("images", 2)

    async def open(self) -> None:
        """
        Take stock, and clear away what was left half done.

        Raises:
            PermanentError: If the folder cannot be used.
        """
        try:
            self._images, self._schematics = await self._threads.run(self._take_stock)
        except OSError as error:
            hint = "check who owns the folder, and whether its disk is full or read-only"
            raise PermanentError(f"the images in {self._folder} cannot be used: {error.strerror}", hint=hint) from error

    def close(self) -> None:
        """Wait for what is under way; blocks for a moment."""
        self._threads.close()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return sum(image.size for image in self._images.values())

    # --- finding ---

    def find(self, name: str) -> Image | None:
        """Give an image, and remember that somebody wanted it."""
        image = self._images.get(name)
        if image is None:
            return None
        now = time.time()
        try:
            if abs(now - image.used) > _TOUCH_SECONDS:
                os.utime(image.folder)
                image.used = now
            image.kernel.stat()
        except OSError as error:
            log.warning("images.lost", image=name, error=error.strerror)  # Somebody tidied up.
            del self._images[name]
            return None
        return image

    @contextmanager
    def hold(self, name: str, file: str) -> Iterator[Path | None]:
        """Find a file to be sent, None if there is none; the image stays as long as this is open."""
        image = self.find(name)
        if image is None or file not in {_KERNEL, *(disk.name for disk in image.ram_disks)}:
            yield None
            return
        image.holders += 1
        try:
            yield image.folder / file
        finally:
            image.holders -= 1

    # --- ids of schematics ---

    def schematic(self, digest: str) -> str | None:
        """The id that the factory gave to what has this digest."""
        return self._schematics.get(digest)

    async def remember_schematic(self, digest: str, identity: str) -> None:
        """Keep an id; of too many, the oldest go."""
        self._schematics[digest] = identity
        self._serial += 1  # Two images of one schematic may come at once: each writes a file of its own.
        new = self._schematic_folder / f".{digest}-{self._serial}"
        await self._threads.run(_write_whole, new, self._schematic_folder / digest, identity.encode())
        while len(self._schematics) > MOST_SCHEMATICS:
            await self.forget_schematic(next(iter(self._schematics)))

    async def forget_schematic(self, digest: str) -> None:
        """The factory does not know it any more."""
        self._schematics.pop(digest, None)
        await self._threads.run((self._schematic_folder / digest).unlink, missing_ok=True)

    # --- making ---

    @asynccontextmanager
    async def stage(self, name: str) -> AsyncIterator[Staging]:
        """Make an image; if it is not committed, nothing is left of it."""
        self._serial += 1
        staging = Staging(self, name, self._folder / f".new-{self._serial}", self._threads)
        await self._threads.run(staging.folder.mkdir)
        self._stagings.add(staging)
        try:
            yield staging
        finally:
            self._stagings.remove(staging)
            await self._threads.run(shutil.rmtree, staging.folder, ignore_errors=True)

    async def reserve(self, staging: Staging, size: int) -> None:
        """
        Make room for so many bytes more of an image, by dropping the images that were not used for longest.

        Raises:
            PermanentError: If it can never fit.
            TemporaryError: If all that could go is in use.
        """
        if staging.reserved + size > self._most_bytes:
            raise PermanentError(
                f"the image has more than {staging.reserved + size} bytes,"
                f" and {self._most_bytes} are for all images together",
                hint="allow more bytes for images in the settings",
            )
        async with self._changing:
            staging.reserved += size
            try:
                while (full := await self._full()) is not None:
                    await self._drop(self._least_used(full))
            except BaseException:
                staging.reserved -= size
                raise

    async def _full(self) -> TemporaryError | None:
        """What is wrong if there is no room for all that is reserved."""
        wait = timedelta(minutes=1)
        if sum(each.reserved for each in self._stagings) + self.size > self._most_bytes:
            what = f"all images are in use, and {self._most_bytes} bytes are for all of them together"
            return TemporaryError(what, retry_after=wait, hint="allow more bytes for images in the settings")
        free = await self._threads.run(_free_bytes, self._folder)
        if free - sum(each.reserved - each.written for each in self._stagings) < LEAST_FREE_BYTES:
            what = f"the disk of the images has {free} bytes left, of which {LEAST_FREE_BYTES} are to stay free"
            return TemporaryError(
                what, retry_after=wait, hint="make room there, or set talos.cache_dir to another disk"
            )
        return None

    def _least_used(self, full: TemporaryError) -> Image:
        stale = time.time() - FRESH_SECONDS
        idle = [image for image in self._images.values() if not image.holders and image.used < stale]
        if not idle:
            raise full
        return min(idle, key=lambda image: image.used)

    async def _drop(self, image: Image) -> None:
        del self._images[image.name]  # No `await` before this: nobody may find it from here on.
        log.info("images.dropped", image=image.name, bytes=image.size)
        await self._threads.run(_remove, image.folder)

    async def take(self, staging: Staging, arguments: Sequence[str]) -> Image:
        """Turn what is staged into an image; of two that are made at one time, the first stays."""
        manifest = {"sizes": staging.sizes, "arguments": list(arguments)}
        folder = self._folder / staging.name
        async with self._changing:
            if (existing := self._images.get(staging.name)) is not None:
                return existing
            await self._threads.run(_publish, staging.folder, folder, json.dumps(manifest).encode())
            image = Image(folder, len(staging.sizes) - 1, tuple(arguments), sum(staging.sizes.values()), time.time())
            self._images[image.name] = image
        return image

    # --- in threads ---

    def _take_stock(self) -> tuple[dict[str, Image], dict[str, str]]:
        for folder in (self._folder, self._schematic_folder):
            folder.mkdir(parents=True, exist_ok=True)
        images: dict[str, Image] = {}
        for path in self._folder.iterdir():
            image = _read_image(path)
            if image is None:
                _discard(path)
            else:
                images[image.name] = image
        schematics: dict[str, str] = {}
        for path in sorted(self._schematic_folder.iterdir(), key=lambda path: path.stat().st_mtime):
            identity = path.read_bytes().decode(errors="replace")
            if path.name.startswith(".") or not factory.is_schematic_id(identity):
                path.unlink()
            else:
                schematics[path.name] = identity
        return images, schematics


@dataclass(eq=False)
class Staging:
    """An image in the making; `reserved` and `written` are bytes."""

    _images: Images
    name: str
    folder: Path
    _threads: Threads
    sizes: dict[str, int] = field(default_factory=dict)
    reserved: int = 0
    written: int = 0

    async def reserve(self, size: int) -> None:
        """Make room for so many bytes more; raises as `Images.reserve`."""
        await self._images.reserve(self, size)

    async def add(self, chunks: AsyncIterator[bytes]) -> int:
        """Write the next file, the kernel first, and flush it to disk; gives its length. Room is reserved by the caller."""
        name = f"initrd-{len(self.sizes) - 1}" if self.sizes else _KERNEL
        before = self.written
        file: BinaryIO = await self._threads.run((self.folder / name).open, "xb")
        try:
            async for chunk in chunks:
                self.written += await self._threads.run(file.write, chunk)
            await self._threads.run(_flush, file)
        finally:
            await self._threads.run(file.close)
        self.sizes[name] = self.written - before
        return self.sizes[name]

    async def commit(self, arguments: Sequence[str]) -> Image:
        """It is whole: make it an image."""
        return await self._images.take(self, arguments)


def _read_image(folder: Path) -> Image | None:
    """An image from its folder; None if it is not whole."""
    if folder.name.startswith("."):
        return None
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        sizes, arguments = manifest["sizes"], tuple(map(str, manifest["arguments"]))
        used = folder.stat().st_mtime
        image = Image(folder, len(sizes) - 1, arguments, sum(sizes.values()), used)
        found = {path.name: path.stat().st_size for path in (image.kernel, *image.ram_disks)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return image if found == sizes else None


def _publish(staged: Path, folder: Path, manifest: bytes) -> None:
    with (staged / _MANIFEST).open("xb") as file:
        file.write(manifest)
        _flush(file)
    _flush_folder(staged)
    staged.rename(folder)
    _flush_folder(folder.parent)


def _remove(folder: Path) -> None:
    gone = folder.with_name(f".gone-{folder.name}")
    folder.rename(gone)
    shutil.rmtree(gone)


def _discard(path: Path) -> None:
    """Whatever it is; an image that is not whole must not look like one while it goes."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
    elif path.name.startswith("."):
        shutil.rmtree(path)
    else:
        _remove(path)


def _write_whole(new: Path, path: Path, content: bytes) -> None:
    with new.open("wb") as file:
        file.write(content)
        _flush(file)
    new.replace(path)
    _flush_folder(path.parent)


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
