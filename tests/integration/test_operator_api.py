"""The operator API, walked route by route: what it answers, and what it says to bad requests."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from provider.cli.machine import machine_app
from provider.domain.errors import PermanentError
from provider.http import operators
from tests.integration.provider_process import MAC, ProviderProcess, provider_process

ROUTES: dict[tuple[str, str], tuple[object, int, str]] = {
    ("GET", "/v1/status"): (None, 200, "interfaces"),
    ("GET", "/v1/machines"): (None, 200, "machines"),
    ("GET", "/v1/machines/{id}"): (None, 200, "identity"),
    ("GET", "/v1/machines/{id}/explain"): (None, 200, "because"),
    ("GET", "/v1/events"): (None, 200, "events"),
    ("POST", "/v1/machines/{id}/wipe"): (None, 409, "error"),
    ("POST", "/v1/machines/{id}/accept"): (None, 200, "phase"),
    ("POST", "/v1/machines/{id}/power"): ({"action": "status"}, 400, "error"),
    ("GET", "/v1/leases"): (None, 200, "reservations"),
    ("POST", "/v1/reservations"): ({"address": "10.77.0.42", "mac": MAC}, 200, "reservation"),
    ("POST", "/v1/reservations/{address}/remove"): (None, 200, "reservation"),
}
"""Body, status and a key of the answer, in the order in which they are asked: the wipe comes before the machine is accepted."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    with provider_process(tmp_path_factory.mktemp("operator-api")) as process:
        for mac in (MAC, "52:54:00:12:34:57"):
            process.ticket(mac)
        yield process


def asked(served: ProviderProcess, method: str, target: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """The status and the JSON object, which every answer is."""
    answer = served.operator(method, target, None if body is None else json.dumps(body).encode())
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    document: dict[str, Any] = json.loads(answer.body)
    return answer.status, document


def test_every_route_answers(served: ProviderProcess) -> None:
    """A route crashes, or was added without a line in the table."""
    app = operators.application(None, None)  # type: ignore[arg-type] # nobody asks it
    known = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    assert {route for route in known if route[0] != "HEAD"} == set(ROUTES)
    for (method, path), (body, status, key) in ROUTES.items():
        found, document = asked(served, method, path.replace("{id}", MAC).replace("{address}", "10.77.0.42"), body)
        assert (found, key in document) == (status, True), (path, document)


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{id}" in route[1]])
@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("m-nobody", "there is no machine"),
        ("m-", "may be any of"),
        ("%00", "there is no machine"),
        ("%20", "no machine is named"),
        ("..%2f..", "there is no machine"),
        ("x" * 2000, "there is no machine"),
    ],
)
def test_who_is_not_known(served: ProviderProcess, method: str, path: str, wanted: str, says: str) -> None:
    """A name that is nobody's, or several machines', does something to one of them."""
    status, document = asked(served, method, path.replace("{id}", wanted), {"action": "off"})
    assert status == 404
    assert says in document["error"]
    assert document["hint"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("GET", "/"), ("POST", "/v1/machines//accept")])
def test_what_is_not_there(served: ProviderProcess, method: str, path: str) -> None:
    """A newer command line cannot read what the daemon says, and tells of bad JSON."""
    status, document = asked(served, method, path)
    assert (status, document["error"]) == (404, f"{method} {path}: Not Found")


def test_empty_name_is_nobodys(served: ProviderProcess) -> None:
    """An empty name is the beginning of every id: with one machine it means that one."""
    status, document = asked(served, "GET", "/v1/events?machine=")
    assert (status, document["error"]) == (404, "no machine is named")


NAMES = [
    "a/b",
    "m-1/explain",
    f"{MAC}/explain",
    "..",
    ".",
    "../leases",
    "%2e%2e",
    "a%2Fb",
    "a?b#c",
    "",
    " ",
    "x" * 9000,
    "\n",
    "é",
]


@pytest.mark.parametrize("verb", [["show"], ["explain"], ["accept"], ["wipe"], ["power"], ["events"]])
def test_odd_names_on_the_command_line(served: ProviderProcess, verb: list[str]) -> None:
    """A name with a slash asks for something else, and an answer that nobody expected ends in a traceback."""
    before = asked(served, "GET", "/v1/machines")[1]
    for name in NAMES:
        done = CliRunner().invoke(machine_app, [*verb, "--socket", str(served.operator_socket), "--", name])
        assert isinstance(done.exception, PermanentError), (name, done.output)
        assert re.match("there is no machine|there is nothing by the name|no machine is named", str(done.exception)), (
            name
        )
        assert done.exception.hint
    assert asked(served, "GET", "/v1/machines")[1] == before


@pytest.mark.parametrize("name", ["first", "shortened", "mac", "mac with dashes", "upper case"])
def test_names_of_a_machine(served: ProviderProcess, name: str) -> None:
    """What people read on a machine does not find it."""
    machine = next(each for each in asked(served, "GET", "/v1/machines")[1]["machines"] if MAC in each["macs"])["id"]
    written = {
        "first": machine,
        "shortened": machine[:6],
        "mac": MAC,
        "mac with dashes": MAC.replace(":", "-"),
        "upper case": MAC.upper(),
    }[name]
    assert asked(served, "GET", f"/v1/machines/{written}")[1]["id"] == machine


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"action": 5}', b'{"action": "explode"}', b"\xff"])
def test_bad_power_actions(served: ProviderProcess, body: bytes) -> None:
    """A request that is not one switches something, or ends in a traceback."""
    answer = served.operator("POST", f"/v1/machines/{MAC}/power", body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"address": 5}', b'{"address": "10.77.0.42", "uuid": []}', b'{"mac": "x"}', b"\xff"]
)
def test_bad_reservations(served: ProviderProcess, body: bytes) -> None:
    """A request that is none reserves something, or ends in a traceback."""
    answer = served.operator("POST", "/v1/reservations", body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]


def test_no_reservation_to_remove(served: ProviderProcess) -> None:
    """Removing what is not there is taken for done."""
    assert asked(served, "POST", "/v1/reservations/10.77.0.99/remove")[0] == 404


@pytest.mark.parametrize(
    "query", ["after=x", "after=-1", "limit=1e99", "wait=nan", "wait=-1", "wait=9999", "machine=m-nobody"]
)
def test_bad_questions_about_events(served: ProviderProcess, query: str) -> None:
    """Somebody waits for ever, or for everything."""
    status, document = asked(served, "GET", f"/v1/events?{query}")
    assert status in (400, 404)
    assert document["error"]


def test_who_waits_and_goes_away(served: ProviderProcess) -> None:
    """A terminal that was closed while it followed the events keeps something busy."""
    waiting = []
    for _ in range(50):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(served.operator_socket))
        sock.sendall(b"GET /v1/events?after=1000000&wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        waiting.append(sock)
    for sock in waiting:
        sock.close()
    assert asked(served, "GET", "/v1/status")[0] == 200


def test_following_hears_what_happens(served: ProviderProcess) -> None:
    """`machine events --follow` hears of an event only when the poll ends."""
    last = asked(served, "GET", "/v1/events?limit=1000")[1]["events"][-1]["id"]
    follow = ["curl", "-s", "--max-time", "50", "--unix-socket", str(served.operator_socket)]
    with subprocess.Popen([*follow, f"http://x/v1/events?after={last}&wait=60"], stdout=subprocess.PIPE) as curl:
        served.ticket("52:54:00:12:34:58")
        assert curl.stdout is not None
        document = json.loads(curl.stdout.read())
    assert document["events"][0]["name"] == "machine.discovered"


def test_only_the_owner_and_the_group(served: ProviderProcess) -> None:
    """Anybody on the host may wipe machines."""
    assert served.operator_socket.stat().st_mode & 0o777 == 0o660
    if Path("/proc/self/uid_map").read_text().split()[2] == "1":
        pytest.skip("there is but one user in this namespace")
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-s", "--max-time", "10"]
    stranger += ["--unix-socket", str(served.operator_socket), "http://x/v1/status"]
    assert subprocess.run(stranger, check=False, timeout=30).returncode == 7  # It could not connect.


@pytest.mark.parametrize(
    "raw", [b"\0" * 10, b"GET\r\n\r\n", b"GET /v1/machines HTTP/1.1\r\n" + b"X: y\r\n" * 9000 + b"\r\n"]
)
def test_what_is_not_http(served: ProviderProcess, raw: bytes) -> None:
    """A program that talks something else to the socket ends the daemon."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(served.operator_socket))
        try:
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            assert b" 200 " not in sock.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert asked(served, "GET", "/v1/status")[0] == 200


def test_events_for_people(served: ProviderProcess) -> None:
    """A change of phase is told as a piece of Python: `from_= to=discovered`."""
    served.ticket("52:54:00:aa:00:77")
    done = CliRunner().invoke(
        machine_app, ["events", "52:54:00:aa:00:77", "--socket", str(served.operator_socket)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "phase.changed  to=discovered rule=pending" in done.output
