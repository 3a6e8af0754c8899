"""The plain HTTP listener, which anybody on the network can reach: what it serves, and what people do to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.http import boot
from provider.planning.kernels import Site
from tests.integration.provider_process import ADDRESS, MAC, ProviderProcess, provider_process
from tests.integration.wires import must

KERNEL = "/assets/x86_64/vmlinuz"
ODD_INITRD = b"initrd of seven and more bytes"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    """A provider with one profile, whose files lie beside a secret."""
    folder = tmp_path_factory.mktemp("boot-http")
    (folder / "profile").mkdir()
    (folder / "profile/kernel").write_bytes(b"kernel")
    (folder / "profile/initrd").write_bytes(ODD_INITRD)
    (folder / "profile/secret").write_bytes(b"secret")
    (folder / "more/debian").mkdir(parents=True)
    (folder / "more/debian/preseed.cfg").write_bytes(b"preseed")
    (folder / "more/leak").symlink_to("../profile/secret")
    (folder / "more/empty").touch()
    os.mkfifo(folder / "more/fifo")
    profile = {"kernel": "profile/kernel", "initrds": ["profile/initrd"], "command_line": "quiet"}
    with provider_process(folder, profiles={"linux": profile}, profiles_dir="more") as process:
        yield process


@pytest.fixture(scope="module")
def kernel(served: ProviderProcess) -> bytes:
    """The agent's kernel, as it lies on disk."""
    return (served.assets / "x86_64/vmlinuz").read_bytes()


# --- what clients rely on ---


def test_whole_file(served: ProviderProcess, kernel: bytes) -> None:
    """A kernel arrives damaged, or without the length that old iPXE needs."""
    answer = served.boot("GET", KERNEL)
    assert answer.status == 200
    assert answer.headers["content-length"] == str(len(kernel))
    assert "chunked" not in answer.headers.get("transfer-encoding", "")
    assert answer.body == kernel


def test_head_says_the_same_without_the_body(served: ProviderProcess, kernel: bytes) -> None:
    """OVMF asks with HEAD first, and takes a length that is missing for a failure."""
    for path in (KERNEL, "/boot.ipxe", "/ca.pem", "/profiles/linux/kernel"):
        head, got = served.boot("HEAD", path), served.boot("GET", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=100-100", 100, 101),
        ("bytes=1000000-", 1_000_000, None),
        ("bytes=-50", -50, None),
        ("bytes=8000000-99999999999", 8_000_000, None),
    ],
)
def test_ranges(served: ProviderProcess, kernel: bytes, asked: str, begin: int, end: int | None) -> None:
    """A client that goes on after a cut, or a BMC that reads in parts, gets other bytes than it wants (edge case 61)."""
    answer = served.boot("GET", KERNEL, {"Range": asked})
    part = kernel[begin:end]
    assert (answer.status, answer.body) == (206, part)
    first = kernel.index(part, begin % len(kernel))
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(kernel)}"


@pytest.mark.parametrize("asked", ["bytes=99999999999-", "bytes=-0"])
def test_ranges_that_cannot_be(served: ProviderProcess, kernel: bytes, asked: str) -> None:
    """A range behind the end hangs, crashes, or is answered with something."""
    answer = served.boot("GET", KERNEL, {"Range": asked})
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{len(kernel)}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=x-y", "lines=1-2", "bytes=0-1,5-6"])
def test_ranges_that_are_ignored(served: ProviderProcess, kernel: bytes, asked: str) -> None:
    """A range that we do not serve is refused, or looks like one that we do (RFC 9110 section 14.2)."""
    answer = served.boot("GET", KERNEL, {"Range": asked})
    assert answer.status == 200
    assert answer.body == kernel


def test_download_of_a_file_that_was_replaced(served: ProviderProcess) -> None:
    """The end of a new kernel is put behind the beginning of the old one."""
    kernel = served.folder / "profile/kernel"
    kept = kernel.read_bytes()
    tag = served.boot("HEAD", "/profiles/linux/kernel").headers["etag"]
    going_on = {"Range": "bytes=3-", "If-Range": tag}
    same = served.boot("GET", "/profiles/linux/kernel", going_on)
    assert (same.status, same.body) == (206, kept[3:])
    try:
        kernel.write_bytes(b"KERNEL OF TODAY")
        other = served.boot("GET", "/profiles/linux/kernel", going_on)
        assert (other.status, other.body) == (200, b"KERNEL OF TODAY")
    finally:
        kernel.write_bytes(kept)


def test_what_did_not_change_is_not_sent_again(served: ProviderProcess) -> None:
    """A caching proxy in a rack fetches everything anew."""
    tag = served.boot("HEAD", KERNEL).headers["etag"]
    same = served.boot("GET", KERNEL, {"If-None-Match": tag})
    assert (same.status, same.body) == (304, b"")
    assert served.boot("GET", KERNEL, {"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("GET", KERNEL, {"Range": "bytes=99999999999-"}, 416),
        ("GET", KERNEL, {"If-Match": '"other"'}, 412),
        ("GET", KERNEL, {"Accept-Encoding": "gzip, br, zstd"}, 200),
        ("GET", KERNEL, {"TE": "trailers, chunked", "Connection": "TE"}, 200),
        ("GET", KERNEL, {"Expect": "miracles"}, 417),
        ("GET", "/profiles/empty", {}, 200),
        ("GET", "/profiles/empty", {"Range": "bytes=0-"}, 416),
        ("GET", "/profiles/linux/nothing", {}, 404),
        ("POST", KERNEL, {}, 405),
        ("HEAD", "/machine.ipxe?mac=52:54:00:00:00:01", {}, 405),
        ("GET", "/machine.ipxe", {}, 400),
        ("GET", "/machine.ipxe?mac=52:54:00:00:00:01", {}, 200),
        ("GET", "/machine.ipxe?mac=" + "a" * 3000, {}, 414),
        ("GET", "/failed?mac=52:54:00:00:00:99", {}, 200),
        ("GET", "/" + "a" * 20_000, {}, 400),
    ],
)
def test_always_a_length(
    served: ProviderProcess, method: str, target: str, headers: dict[str, str], status: int
) -> None:
    """Firmware that knows no chunks takes an answer for garbage, or waits for its end (edge case 43)."""
    answer = served.boot(method, target, headers)
    assert answer.status == status
    assert "transfer-encoding" not in answer.headers
    assert "content-encoding" not in answer.headers
    assert method == "HEAD" or answer.headers["content-length"] == str(len(answer.body))


def test_script_is_text_and_never_kept(served: ProviderProcess) -> None:
    """Somebody's cache hands one machine's ticket to another, or iPXE does not run it."""
    answer = served.boot("GET", "/machine.ipxe?mac=52:54:00:00:00:01&platform=efi")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("#!ipxe\n")


def test_host_header_is_not_believed(served: ProviderProcess) -> None:
    """Somebody sends machines to another server by the name that a client gave."""
    answer = served.boot("GET", "/boot.ipxe", {"Host": "evil.example"})
    assert "evil" not in answer.text
    assert f"http://{ADDRESS}:8080/machine.ipxe" in answer.text


def test_one_connection_many_files(served: ProviderProcess) -> None:
    """Each file costs a new connection, or requests sent at once get mixed up."""
    request = f"GET /ca.pem HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n".encode()
    with connected() as sock:
        sock.sendall(request * 20)
        answers = read_until(sock, b"-----END CERTIFICATE-----", 20)
    assert answers.count(b"HTTP/1.1 200 OK") == 20


def test_old_http(served: ProviderProcess) -> None:
    """A ROM that speaks HTTP/1.0 waits for the end of the connection."""
    with connected() as sock:
        sock.sendall(b"GET /ca.pem HTTP/1.0\r\n\r\n")
        answer = read_all(sock)
    assert b" 200 OK" in answer.split(b"\r\n", 1)[0]
    assert answer.endswith(b"-----END CERTIFICATE-----\n")


def test_profile_files(served: ProviderProcess) -> None:
    """A profile's files are not where its script says, or others beside them are there as well."""
    assert served.boot("GET", "/profiles/linux/kernel").body == b"kernel"
    assert served.boot("GET", "/profiles/linux/initrd-0").body == ODD_INITRD
    for path in ("initrd-1", "initrd", "secret", "..%2fsecret", "kernel/", ""):
        assert served.boot("GET", f"/profiles/linux/{path}").status == 404, path
    assert served.boot("GET", "/profiles/other/kernel").status == 404


def test_files_of_the_operator(served: ProviderProcess) -> None:
    """An installer does not get its answers, or somebody gets what lies beside them."""
    answer = served.boot("GET", "/profiles/debian/preseed.cfg", {"Range": "bytes=0-2"})
    assert (answer.status, answer.body) == (206, b"pre")
    for path in ("leak", "fifo", "../secret", "%2e%2e/secret", "debian/", "debian//preseed.cfg", "debian", "x" * 6000):
        assert served.boot("GET", f"/profiles/{path}").status in (400, 404), path


def test_failure_is_told(served: ProviderProcess) -> None:
    """A machine gives up, and only its screen says so."""
    served.ticket()
    said = served.boot("GET", f"/failed?mac={MAC}&stage=kernel&error=0x2d0c618e")
    assert said.status == 200
    assert served.boot("GET", "/failed?stage=kernel").status == 400
    data = event(served, "boot.failed")
    assert data == {"step": "kernel", "error": "https://ipxe.org/2d0c618e"}


def event(served: ProviderProcess, name: str) -> dict[str, object]:
    """Wait until something is in a machine's events, and give its data."""
    deadline = time.monotonic() + 60
    after = 0
    while time.monotonic() < deadline:
        events = json.loads(served.operator("GET", f"/v1/events?wait=5&limit=500&after={after}").body)["events"]
        for each in events:
            if each["name"] == name:
                return dict(each["data"])
            after = each["id"]
    raise AssertionError(f"no {name}")


# --- what people do to it ---


@pytest.mark.parametrize(
    "target",
    [
        "/assets/../profile/secret", "/assets/..%2f..%2fstate/secret.key", "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd", "/assets/x86_64/../../../etc/passwd", "/assets/x86_64/vmlinuz/", "/assets/x86_64",
        "/assets/x86_64/vmlinuz%00.txt", "/assets/..\\..\\secret", "/assets/%c0%ae%c0%ae/secret", "/assets/", "/assets",
        "//boot.ipxe", "/boot.ipxe/", "/manifest.json", "/", "/favicon.ico", "/state/secret.key",
    ],
)  # fmt: skip
def test_nothing_but_boot_files(served: ProviderProcess, target: str) -> None:
    """Somebody reads what is not a boot file (invariant 8)."""
    answer = served.boot("GET", target)
    assert answer.status in (400, 404), answer.text
    assert b"secret" not in answer.body
    assert b"root:" not in answer.body


def routes() -> list[tuple[str, str]]:
    """Every method and path of the application."""
    app = boot.application(Site(0, 0, "", {}), boot.Files(b""), None)  # type: ignore[arg-type] # not asked
    return [(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", sorted({path for _, path in routes()}))
def test_only_reading(served: ProviderProcess, method: str, path: str) -> None:
    """A method that we do not serve does something."""
    target = path.replace("{path}", KERNEL.removeprefix("/"))
    answer = served.boot(method, target)
    assert answer.status in (400, 405), answer.text
    if answer.status == 405:
        assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "mac=",
        "mac=x",
        "mac=" + "a" * 3000,
        "mac=52:54:00:12:34:56" + "&x=y" * 3000,
        "mac=%00%ff",
        "mac[]=1",
        "&&&==",
    ],
)
def test_bad_evidence(served: ProviderProcess, query: str) -> None:
    """A machine with strange firmware, or a stranger, makes the daemon stumble, or a machine out of nothing."""
    before = len(json.loads(served.operator("GET", "/v1/machines").body)["machines"])
    assert served.boot("GET", f"/machine.ipxe?{query}").status in (400, 414)
    assert len(json.loads(served.operator("GET", "/v1/machines").body)["machines"]) == before


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /boot.ipxe HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /boot.ipxe HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ca.pem",
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http(served: ProviderProcess, raw: bytes) -> None:
    """Bytes of any kind get more than an error and the end of the connection, or stop it for others."""
    with connected() as sock:
        with contextlib.suppress(OSError):  # It may hang up before it has read all of it.
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            answer = read_all(sock)
            assert b" 200 " not in answer.split(b"\r\n", 1)[0], answer
            assert b" 500 " not in answer.split(b"\r\n", 1)[0], answer
    assert served.boot("GET", "/boot.ipxe").status == 200


def test_slow_readers_slow_nobody(served: ProviderProcess, kernel: bytes) -> None:
    """A hundred machines with bad cables keep the others from booting."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(connected())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(f"GET {KERNEL} HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n".encode())
            assert sock.recv(1)
        assert served.boot("GET", KERNEL).body == kernel


def test_half_open_connections_slow_nobody(served: ProviderProcess) -> None:
    """Connections without a request, or with half of one, use up the listener."""
    with contextlib.ExitStack() as stack:
        for number in range(400):
            sock = stack.enter_context(connected())
            sock.sendall(b"GET /boot.ipxe HTT" if number % 2 else b"")
        assert served.boot("GET", "/boot.ipxe").status == 200


def test_one_address_cannot_have_all_connections(served: ProviderProcess) -> None:
    """One broken machine that opens connections for ever keeps the others from booting."""
    must(*served.cable.inside("ip", "addr", "replace", "10.77.0.9/24", "dev", served.cable.theirs))
    with contextlib.ExitStack() as stack:
        for _ in range(700):
            stack.enter_context(connected())
        assert turned_away(served)
        # Another address is served all the while.
        must(*served.cable.inside("curl", "-sf", "--max-time", "20", f"http://{ADDRESS}:8080/boot.ipxe"))
    assert let_in(served), "connections that have ended still count"


def test_answers_that_nobody_reads(served: ProviderProcess) -> None:
    """Somebody sends requests for ever and reads no answer, and they are kept in memory (invariant 7)."""
    requests = f"GET /ca.pem HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n".encode() * 1000
    upgraded = b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + bytes(60_000)
    for flood in (requests, upgraded):
        with connected() as sock:
            sock.settimeout(3)
            sent = 0
            with contextlib.suppress(OSError):  # It takes no more, or hangs up.
                while sent < 100_000_000:
                    sent += sock.send(flood)
            assert sent < 50_000_000
    assert served.boot("GET", "/boot.ipxe").status == 200


@pytest.mark.parametrize(
    "smuggled",
    [
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\nContent-Length: 0\r\n\r\n",
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nContent-Length: +30\r\n\r\n",
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /ca.pem HTTP/1.1\r\nHost: x\r\nX: a\n\nGET /boot.ipxe HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_two_requests_in_one(served: ProviderProcess, smuggled: bytes) -> None:
    """A proxy in between and we disagree on where a request ends, and somebody gets another's script."""
    with connected() as sock:
        sock.sendall(smuggled + b"GET /boot.ipxe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.0 400 "), answer
    assert b"#!ipxe" not in answer


def let_in(served: ProviderProcess) -> bool:
    """Whether a further connection is served, once the ends of others have been noticed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            return served.boot("GET", "/boot.ipxe").status == 200
    return False


def turned_away(served: ProviderProcess) -> bool:
    """Whether a further connection is closed; those that wait in the kernel have their turn one by one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            served.boot("GET", "/boot.ipxe")
        except (ConnectionError, http.client.HTTPException):
            return True
    return False


def test_file_that_is_gone(served: ProviderProcess) -> None:
    """A profile whose kernel was removed ends in a traceback, or a machine that hangs."""
    kernel = served.folder / "profile/kernel"
    kept = kernel.read_bytes()
    kernel.unlink()
    try:
        assert served.boot("GET", "/profiles/linux/kernel").status == 404
    finally:
        kernel.write_bytes(kept)
    assert served.boot("GET", "/profiles/linux/kernel").body == kept


def test_file_that_is_replaced_while_it_is_read(served: ProviderProcess) -> None:
    """A kernel that somebody replaces is half the old one and half the new one."""
    kernel = served.folder / "profile/kernel"
    kept = kernel.read_bytes()
    old = b"o" * 30_000_000
    kernel.write_bytes(old)
    try:
        with connected() as sock:
            sock.sendall(f"GET /profiles/linux/kernel HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n".encode())
            begun = sock.recv(1000)
            fresh = kernel.with_name("fresh")
            fresh.write_bytes(b"n" * 30_000_000)
            fresh.replace(kernel)
            answer = begun + read_all(sock)
        assert answer.partition(b"\r\n\r\n")[2] == old
    finally:
        kernel.write_bytes(kept)


def test_curl_gets_every_asset(served: ProviderProcess, tmp_path: Path) -> None:
    """A file of the manifest is not served, or only to our own client."""
    names = json.loads((served.assets / "manifest.json").read_text())["files"]
    for name in names:
        url = f"http://{ADDRESS}:8080/assets/{name}"
        subprocess.run(["curl", "-sSf", "-o", tmp_path / "got", url], check=True, timeout=60)
        assert (tmp_path / "got").read_bytes() == (served.assets / name).read_bytes()


# --- sockets ---


def connected() -> socket.socket:
    return socket.create_connection((ADDRESS, 8080), timeout=60)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_until(sock: socket.socket, mark: bytes, times: int) -> bytes:
    heard = b""
    while heard.count(mark) < times:
        part = sock.recv(1 << 16)
        assert part, heard
        heard += part
    return heard
