"""The client of the Image Factory against one that is well, slow, broken, dying, or away."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from provider.domain.errors import BootwrightError, PermanentError, TemporaryError
from provider.domain.machine import BootMode
from provider.http import images
from provider.http.factory import Factory, Patience
from provider.http.images import Image
from provider.http.tls import Authority
from provider.planning import talos
from provider.planning.talos import FactoryAddress, TalosBoot, TalosMachine, TalosSite
from tests.fakes import image_factory
from tests.fakes.image_factory import ImageFactory, Trouble

ROOT = Path(__file__).parents[2]
BOOT = TalosBoot({"customization": {}}, "v1.11.2", "amd64", False, ("a=1",), False)
OTHER = replace(BOOT, version="v1.12.0")
THIRD = replace(BOOT, version="v1.13.0")
PATIENCE = Patience(
    connect=2, answer=2, machine=10, first_pause=timedelta(seconds=0.2), longest_pause=timedelta(seconds=0.4)
)
ROOMY = 100_000_000
ONE_IMAGE = 1_500_000


@asynccontextmanager
async def client(
    folder: Path,
    server: ImageFactory,
    most_bytes: int = ROOMY,
    patience: Patience = PATIENCE,
    ca_file: Path | None = None,
) -> AsyncIterator[Factory]:
    async with Factory(
        folder, most_bytes, lambda: FactoryAddress(server.url, server.url), patience=patience, ca_file=ca_file
    ) as factory:
        yield factory


def run(test: Callable[[ImageFactory], Awaitable[None]]) -> None:
    """A test with a factory of its own."""

    async def whole() -> None:
        async with ImageFactory().serving() as server:
            await test(server)

    asyncio.run(whole())


def check(image: Image, server: ImageFactory) -> None:
    """The files are the factory's."""
    schematic, version, _ = image.name.split("-", 2)
    names = ["kernel-amd64", "initramfs-amd64.xz"] if image.ram_disks else ["metal-amd64-secureboot-uki.efi"]
    for path, name in zip([image.kernel, *image.ram_disks], names, strict=True):
        assert path.read_bytes() == server.file(f"/image/{schematic}/{version}/{name}", name)


async def failure(factory: Factory, boot: TalosBoot = BOOT) -> BootwrightError:
    with pytest.raises(BootwrightError) as caught:
        await factory.image(boot)
    return caught.value


def test_image_is_fetched_once(tmp_path: Path) -> None:
    """A machine gets another file, or each boot is a download."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            image = await factory.image(BOOT)
            check(image, server)
            assert image.arguments == ("talos.platform=metal",)
            assert await factory.image(BOOT) is image
            check(await factory.image(replace(BOOT, is_secure_boot=True)), server)
        assert sum(server.asked.values()) == 1 + 3 + 2

    run(test)


def test_rack_boots_with_the_factory_away(tmp_path: Path) -> None:
    """The uplink is dead, the daemon starts again, and no machine boots."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            await factory.image(BOOT)
        asked = server.asked.total()
        server.trouble = dict.fromkeys(("schematics", "pxe", "image"), image_factory.status(500))
        async with client(tmp_path, server) as factory:
            check(await factory.image(BOOT), server)
            assert server.asked.total() == asked
            server.trouble = {}
            check(await factory.image(OTHER), server)
        assert server.count("POST") == 1, "the id of the schematic was forgotten"

    run(test)


def test_a_thousand_machines_are_one_download(tmp_path: Path) -> None:
    """A rack is switched on, and its uplink is full for an hour."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            found = await asyncio.gather(*(factory.image(BOOT) for _ in range(1000)))
            assert len(set(map(id, found))) == 1
        assert set(server.asked.values()) == {1}

    run(test)


def test_two_images_of_one_schematic(tmp_path: Path) -> None:
    """Machines with and without Secure Boot come together, and one of them is told that the disk is broken."""

    async def main() -> None:
        opened = images.Images(tmp_path, ROOMY)
        await opened.open()
        await asyncio.gather(*(opened.remember_schematic("digest", "0" * 64) for _ in range(50)))
        opened.close()
        (kept,) = (tmp_path / "schematics").iterdir()
        assert kept.read_text() == "0" * 64

    asyncio.run(main())


def test_who_goes_away_ends_nothing(tmp_path: Path) -> None:
    """The first machine is switched off, and the others wait for ever."""

    async def test(server: ImageFactory) -> None:
        go = asyncio.Event()
        server.trouble["image"] = image_factory.held(go)
        async with client(tmp_path, server) as factory, asyncio.TaskGroup() as group:
            first = group.create_task(factory.image(BOOT))
            second = group.create_task(factory.image(BOOT))
            while not server.count("GET /image"):
                await asyncio.sleep(0.01)
            first.cancel()
            go.set()
            check(await second, server)
        assert set(server.asked.values()) == {1}

    run(test)


def test_who_waits_too_long_comes_back(tmp_path: Path) -> None:
    """iPXE gives up on a script that does not come, instead of asking again for it."""

    async def test(server: ImageFactory) -> None:
        go = asyncio.Event()
        server.trouble["image"] = image_factory.held(go)
        async with client(tmp_path, server, patience=replace(PATIENCE, machine=0.2)) as factory:
            error = await failure(factory)
            assert isinstance(error, TemporaryError)
            assert "is being fetched" in str(error)
            assert error.retry_after > timedelta(0)
            go.set()
            while factory._flights:
                await asyncio.sleep(0.01)
            check(await factory.image(BOOT), server)
        assert set(server.asked.values()) == {1}

    run(test)


def test_failure_is_not_repeated_for_each(tmp_path: Path) -> None:
    """A factory that is down is asked by a thousand machines, again and again."""

    async def test(server: ImageFactory) -> None:
        server.trouble["schematics"] = image_factory.status(503, "busy")
        async with client(tmp_path, server) as factory:
            errors = await asyncio.gather(*(factory.image(BOOT) for _ in range(1000)), return_exceptions=True)
            errors += await asyncio.gather(*(factory.image(BOOT) for _ in range(10)), return_exceptions=True)
            assert server.asked.total() == 1
            for error in errors:
                assert isinstance(error, TemporaryError)
                assert timedelta(0) < error.retry_after <= PATIENCE.first_pause
            server.trouble = {}
            await asyncio.sleep(PATIENCE.first_pause.total_seconds())
            check(await factory.image(BOOT), server)

    run(test)


def test_factory_says_when(tmp_path: Path) -> None:
    """A factory that asks for a pause does not get it."""

    async def test(server: ImageFactory) -> None:
        server.trouble["schematics"] = image_factory.status(503, Retry_After="77")
        async with client(tmp_path, server) as factory:
            error = await failure(factory)
            assert isinstance(error, TemporaryError)
            assert error.retry_after == timedelta(seconds=77)

    run(test)


@pytest.mark.parametrize(
    ("place", "trouble", "kind", "says"),
    [
        ("schematics", image_factory.status(400, "unknown extension"), PermanentError, r"answers 400 \(unknown extension\)"),
        ("schematics", image_factory.status(401), PermanentError, "answers 401"),
        ("pxe", image_factory.status(403), PermanentError, "answers 403"),
        ("pxe", image_factory.status(404, "\x1b[31m"), PermanentError, "answers 404$"),
        ("image", image_factory.status(404), PermanentError, "answers 404"),
        ("schematics", image_factory.status(405), PermanentError, "answers 405"),
        ("pxe", image_factory.status(429), TemporaryError, "answers 429"),
        ("pxe", image_factory.status(500, Retry_After="never"), TemporaryError, "answers 500"),
        ("image", image_factory.status(503), TemporaryError, "answers 503"),
        ("pxe", image_factory.status(204), TemporaryError, "answers 204"),
        ("schematics", image_factory.body(b"<html>"), TemporaryError, "no JSON"),
        ("schematics", image_factory.body(b"{}"), TemporaryError, "no id"),
        ("schematics", image_factory.body(bytes(100_000)), TemporaryError, "more than 65536 bytes"),
        ("schematics", image_factory.body(b"x", Content_Encoding="br"), TemporaryError, "in br"),
        ("pxe", image_factory.body(b"<html>"), TemporaryError, "no iPXE script"),
        ("pxe", image_factory.body(b"#!ipxe\nkernel file:///etc/passwd\nboot\n"), PermanentError, "from http to file"),
        ("pxe", image_factory.body(b"#!ipxe\nkernel http://[::1\nboot\n"), TemporaryError, "of no use"),
        ("image", image_factory.body(b""), TemporaryError, "0 bytes"),
        ("image", image_factory.body(b"<html>blocked", Content_Type="text/html"), TemporaryError, "a page for people"),
        ("image", image_factory.body(b"x", Content_Encoding="gzip"), TemporaryError, "in gzip"),
        ("image", image_factory.cut_off(), TemporaryError, "cannot be reached"),
        ("image", image_factory.cut_off(chunked=True), TemporaryError, "cannot be reached"),
    ],
)  # fmt: skip
def test_trouble(tmp_path: Path, place: str, trouble: Trouble, kind: type, says: str) -> None:
    """A machine boots half a file, or nobody is told what is wrong with the factory."""

    async def test(server: ImageFactory) -> None:
        server.trouble[place] = trouble
        async with client(tmp_path, server) as factory:
            with pytest.raises(kind, match=says) as caught:
                await factory.image(BOOT)
            assert caught.value.hint
            assert not list((tmp_path / "images").iterdir())
            server.trouble = {}
            await asyncio.sleep(PATIENCE.first_pause.total_seconds())
            check(await factory.image(BOOT), server)

    run(test)


def test_file_without_a_length(tmp_path: Path) -> None:
    """A file that ends when the connection does is taken for whole, whenever that is."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nkernel")
        writer.close()

    async def test(server: ImageFactory) -> None:
        endless = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = endless.sockets[0].getsockname()[1]
        server.trouble["pxe"] = image_factory.body(b"#!ipxe\nkernel http://127.0.0.1:%d/kernel\nboot\n" % port)
        async with endless, client(tmp_path, server) as factory:
            assert "how long it is" in str(await failure(factory))

    run(test)


def test_chunks(tmp_path: Path) -> None:
    """A proxy that sends in chunks stops the rack, or fills its disk."""

    async def test(server: ImageFactory) -> None:
        server.trouble["image"] = image_factory.unmeasured(bytes(2_000_000))
        async with client(tmp_path, server) as factory:
            image = await factory.image(BOOT)
            assert [path.stat().st_size for path in (image.kernel, *image.ram_disks)] == [2_000_000] * 2
        async with client(tmp_path / "small", server, most_bytes=ONE_IMAGE) as factory:
            assert "all images together" in str(await failure(factory))

    run(test)


def test_silence(tmp_path: Path) -> None:
    """A factory that holds the connection holds the flight, for ever."""

    async def test(server: ImageFactory) -> None:
        server.trouble["image"] = image_factory.held(asyncio.Event())
        async with client(tmp_path, server, patience=replace(PATIENCE, answer=0.2)) as factory:
            assert "does not answer in time" in str(await failure(factory))
        async with client(tmp_path, server, patience=replace(PATIENCE, flight=0.2)) as factory:
            assert "took too long" in str(await failure(factory))

    run(test)


def test_nobody_is_there(tmp_path: Path) -> None:
    """A factory that is away ends in a traceback."""

    async def test() -> None:
        async with client(tmp_path, ImageFactory(url="http://127.0.0.1:9")) as factory:
            error = await failure(factory)
        assert isinstance(error, TemporaryError)
        assert error.hint == "check the way to it: curl -v http://127.0.0.1:9"

    asyncio.run(test())


def test_factory_that_dies_and_lives_again(tmp_path: Path) -> None:
    """What was downloaded when the factory died is served, or nothing is after that."""

    async def test() -> None:
        server = ImageFactory(trouble={"image": image_factory.cut_off(waits=True)})
        async with AsyncExitStack() as living, asyncio.TaskGroup() as group:
            alive = await living.enter_async_context(AsyncExitStack())
            await alive.enter_async_context(server.serving())
            factory = await living.enter_async_context(client(tmp_path, server))
            waiting = group.create_task(failure(factory))
            while not any(flight.received for flight in factory._flights.values()):
                await asyncio.sleep(0.01)
            await alive.aclose()
            assert isinstance(await waiting, TemporaryError)
            await asyncio.sleep(PATIENCE.first_pause.total_seconds())
            assert isinstance(await failure(factory), TemporaryError)
            server.trouble = {}
            async with server.serving(int(server.url.rpartition(":")[2])):
                await asyncio.sleep(PATIENCE.longest_pause.total_seconds())
                check(await factory.image(BOOT), server)

    asyncio.run(test())


def test_factory_that_lost_its_schematics(tmp_path: Path) -> None:
    """A factory that was set up anew is never told the schematic again."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            await factory.image(BOOT)
            server.schematics.clear()
            assert isinstance(await failure(factory, OTHER), PermanentError)
            await asyncio.sleep(PATIENCE.first_pause.total_seconds())
            check(await factory.image(OTHER), server)
        assert server.count("POST") == 2

    run(test)


def test_own_ca(tmp_path: Path) -> None:
    """A factory of one's own cannot be used, or one with anybody's certificate can."""
    authority = Authority.open(tmp_path / "tls", datetime.now(UTC), ["127.0.0.1"])
    ca_file = tmp_path / "tls/ca.pem"

    async def test() -> None:
        async with ImageFactory().serving(tls=authority.server_context()) as server:
            async with client(tmp_path, server, ca_file=ca_file) as factory:
                check(await factory.image(BOOT), server)
                server.trouble["pxe"] = image_factory.body(b"#!ipxe\nkernel http://127.0.0.1:9/kernel\nboot\n")
                assert "from https to http" in str(await failure(factory, OTHER))
            async with client(tmp_path / "other", server) as factory:
                assert "is not trusted" in str(await failure(factory))

    asyncio.run(test())


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_bad_ca_file(tmp_path: Path, content: bytes | None) -> None:
    """A wrong setting shows when the first machine boots."""
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)

    async def test() -> None:
        with pytest.raises(PermanentError, match=r"ca\.pem"):
            async with client(tmp_path, ImageFactory(url="https://x"), ca_file=tmp_path / "ca.pem"):
                pass

    asyncio.run(test())


def test_bad_folder(tmp_path: Path) -> None:
    """A folder that is none ends in a traceback."""
    (tmp_path / "images").write_text("")

    async def test() -> None:
        with pytest.raises(PermanentError, match="cannot be used"):
            async with client(tmp_path, ImageFactory(url="https://x")):
                pass

    asyncio.run(test())


def test_least_recently_used_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the appliance is full, or what is used most is thrown away."""
    monkeypatch.setattr(images, "FRESH_SECONDS", -1.0)
    monkeypatch.setattr(images, "_TOUCH_SECONDS", 0.0)

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server, most_bytes=2_100_000) as factory:
            first, second = await factory.image(BOOT), await factory.image(OTHER)
            assert await factory.image(BOOT) is first
            await factory.image(THIRD)
            assert first.folder.exists()
            assert not second.folder.exists()
        async with client(tmp_path, server, most_bytes=2_100_000) as factory:
            await factory.image(OTHER)
            assert not first.folder.exists(), "the order was forgotten"

    run(test)


def test_what_is_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine has its script, or half its kernel, and the rest is gone."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server, most_bytes=ONE_IMAGE) as factory:
            image = await factory.image(BOOT)
            assert "all images are in use" in str(await failure(factory, OTHER)), "a machine has just its script"
            monkeypatch.setattr(images, "FRESH_SECONDS", -1.0)
            factory._failures.clear()
            with factory.images.hold(image.name, "kernel") as path:
                assert path == image.kernel
                assert "all images are in use" in str(await failure(factory, OTHER)), "it is being sent"
                check(image, server)
            factory._failures.clear()
            check(await factory.image(OTHER), server)
            assert not image.folder.exists()

    run(test)


def test_image_that_never_fits(tmp_path: Path) -> None:
    """Everything else is thrown away for an image that is too large all the same."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server, most_bytes=ONE_IMAGE) as factory:
            image = await factory.image(BOOT)
            server.sizes = (10, 2_000_000)
            error = await failure(factory, OTHER)
            assert isinstance(error, PermanentError)
            check_sizes = [path.stat().st_size for path in (image.kernel, *image.ram_disks)]
            assert check_sizes == [300_000, 700_001]
            assert [path.name for path in (tmp_path / "images").iterdir()] == [image.name]

    run(test)


@pytest.mark.parametrize("file", ["image.json", "initrd-1", "", "../kernel", "/etc/passwd", "kernel\0"])
def test_only_files_of_images_are_served(tmp_path: Path, file: str) -> None:
    """Somebody on the provisioning network reads what is no boot file."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            image = await factory.image(BOOT)
            for name in (image.name, "..", "", f".{image.name}"):
                with factory.images.hold(name, file) as path:
                    assert path is None
            with factory.images.hold(image.name, "initrd-0") as path:
                assert path == image.ram_disks[0]

    run(test)


def test_what_is_not_whole_is_thrown_away(tmp_path: Path) -> None:
    """A disk that lost a part of a file boots machines with it."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            found = [await factory.image(boot) for boot in (BOOT, OTHER, THIRD)]
        os.truncate(found[0].kernel, 10)
        found[1].ram_disks[0].unlink()
        (found[2].folder / "image.json").write_text('{"sizes": {"kernel": "x"}, "arguments": []}')
        (tmp_path / "images/file").write_text("")
        (tmp_path / "images/.new-7").mkdir()
        (tmp_path / "images/link").symlink_to("/")
        (tmp_path / "schematics/x").write_text("nonsense")
        (tmp_path / "schematics/.y").write_text("a" * 64)
        async with client(tmp_path, server) as factory:
            assert not list((tmp_path / "images").iterdir())
            assert len(list((tmp_path / "schematics").iterdir())) == 1
            check(await factory.image(BOOT), server)

    run(test)


def test_folder_that_somebody_tidied(tmp_path: Path) -> None:
    """An image that an operator removed is never there again."""

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            image = await factory.image(BOOT)
            for path in image.folder.iterdir():
                path.unlink()
            image.folder.rmdir()
            check(await factory.image(BOOT), server)

    run(test)


def test_disk_that_is_not_only_for_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images fill the disk, within their own limit, and the database that is on it can write nothing any more."""
    monkeypatch.setattr(images, "FRESH_SECONDS", -1.0)

    def free(folder: Path) -> int:
        """On a disk with room for two images."""
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return images.LEAST_FREE_BYTES + 2_100_000 - used

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            first = await factory.image(BOOT)
            monkeypatch.setattr(images, "_free_bytes", free)
            second = await factory.image(OTHER)
            third = await factory.image(THIRD)
            assert [image.folder.exists() for image in (first, second, third)] == [False, True, True]
            monkeypatch.setattr(images, "_free_bytes", lambda _folder: 1000)
            error = await failure(factory)
            assert isinstance(error, TemporaryError)
            assert "has 1000 bytes left" in str(error)
            assert not list((tmp_path / "images").glob(".*"))

    run(test)


def test_two_ways_to_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two schematics that are one to the factory, fetched at once, the second fails because the first is there."""
    publish = images._publish

    def slowly(*arguments: object) -> None:
        time.sleep(0.2)
        publish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "_publish", slowly)

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path / "before", server) as factory:
            identity = (await factory.image(BOOT)).name[:64]
        server.trouble["schematics"] = image_factory.body(json.dumps({"id": identity}).encode())
        async with client(tmp_path, server) as factory:
            other = replace(BOOT, schematic={"customization": {"extraKernelArgs": []}})
            first, second = await asyncio.gather(factory.image(BOOT), factory.image(other))
            assert first is second
            check(first, server)
            assert len(factory.images) == 1

    run(test)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends in a traceback, or in half a file."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            with monkeypatch.context() as broken:
                broken.setattr(os, "fsync", full)
                error = await failure(factory)
            assert "No space left" in str(error)
            assert isinstance(error, TemporaryError)
            await asyncio.sleep(PATIENCE.first_pause.total_seconds())
            check(await factory.image(BOOT), server)

    run(test)


def test_schematics_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each other argument of a machine is a file that stays for ever."""
    monkeypatch.setattr(images, "MOST_SCHEMATICS", 2)

    async def test(server: ImageFactory) -> None:
        async with client(tmp_path, server) as factory:
            for argument in "abc":
                await factory.image(replace(BOOT, schematic={"customization": {"extraKernelArgs": [argument]}}))
        assert len(list((tmp_path / "schematics").iterdir())) == 2

    run(test)


def test_password_is_told_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The password of an enterprise factory is in the log."""
    caplog.set_level(logging.DEBUG)

    async def test(server: ImageFactory) -> None:
        seen: list[str | None] = []

        async def keep(request: object) -> None:
            seen.append(request.headers.get("Authorization"))  # type: ignore[attr-defined]

        server.trouble = dict.fromkeys(("schematics", "pxe"), keep)
        server.url = server.url.replace("//", "//ops:secret@")
        with capture_logs() as logs:
            async with client(tmp_path, server) as factory:
                check(await factory.image(BOOT), server)
                server.trouble["pxe"] = image_factory.status(403)
                error = await failure(factory, OTHER)
                server.trouble["pxe"] = image_factory.body(b"?")
                other = await failure(factory, THIRD)
        assert seen == ["Basic b3BzOnNlY3JldA=="] * 2
        told = f"{logs} {error} {error.hint} {other} {other.hint} {caplog.text}"
        assert "403" in told
        assert "secret" not in told
        on_disk = [path.read_bytes() for path in tmp_path.rglob("*.json")]
        assert on_disk
        assert all(b"secret" not in content for content in on_disk)

    run(test)


def test_errors_of_others_stay_what_they_are(tmp_path: Path) -> None:
    """What ends the daemon comes out wrapped in something that says less."""

    async def test() -> None:
        with pytest.raises(KeyError):
            async with client(tmp_path, ImageFactory(url="http://127.0.0.1:9")):
                raise KeyError

    asyncio.run(test())


def test_killed_between_any_two_steps(tmp_path: Path) -> None:
    """A power cut leaves half a file, and the machines of the rack boot it."""

    async def test(server: ImageFactory) -> None:
        helper = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.factory_killed",
            tmp_path,
            server.url,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await helper.communicate()
        result = json.loads(said.splitlines()[-1])
        assert result["problems"] == []
        assert result["steps"] > 25

    run(test)


@pytest.mark.timeout(1800)
@pytest.mark.skipif("BOOTWRIGHT_FACTORY_URL" not in os.environ, reason="BOOTWRIGHT_FACTORY_URL names no Image Factory")
def test_real_factory(tmp_path: Path) -> None:
    """What Sidero's own factory answers is not what we read."""
    url = os.environ["BOOTWRIGHT_FACTORY_URL"]
    pxe_url = os.environ.get("BOOTWRIGHT_FACTORY_PXE_URL", url.replace("//factory.", "//pxe.factory."))
    boot = talos.choose(
        BootMode.AGENT, TalosMachine("x86_64", IPv4Address("10.0.0.1")), TalosSite(config_port=8080, agent_port=50042)
    )

    async def test() -> None:
        patience = replace(PATIENCE, answer=300, machine=1700)
        async with Factory(tmp_path, 2 << 30, lambda: FactoryAddress(url, pxe_url), patience=patience) as factory:
            image = await factory.image(boot)
            assert "talos.platform=metal" in image.arguments
            assert image.kernel.read_bytes()[:2] == b"MZ"
            assert len(image.ram_disks) == 1
            boot.command_line(image.arguments, "4c4c4544-0042-3510-8054-b4c04f4b4e32")

    asyncio.run(test())
