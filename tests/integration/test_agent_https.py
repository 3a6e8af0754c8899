"""The agents' listener: who gets in with a ticket, who does not, and what each request does with rubbish."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from provider.http import agents
from tests.integration.provider_process import ADDRESS, Answer, ProviderProcess, provider_process
from tests.integration.wires import run

OTHER_MAC = "52:54:00:12:34:57"
INVENTORY = {
    "system": {"manufacturer": "Dell", "product": "R640", "serial": "S1", "uuid": ""},
    "firmware": "uefi",
    "architecture": "x86_64",
    "cpu": {},
    "memory_bytes": 1 << 30,
}

GOOD: dict[tuple[str, str], tuple[object, int]] = {
    ("PUT", "/agent/v1/inventory"): (INVENTORY, 204),
    ("GET", "/agent/v1/work"): (None, 204),
    ("POST", "/agent/v1/operations/{id}/progress"): ({"percent": 5}, 410),
    ("POST", "/agent/v1/operations/{id}/result"): ({"error": "failed"}, 410),
}
"""What a machine with a token may send, and what it is answered: it has no operation, so none can be reported on."""

WITHOUT_TOKEN = {("POST", "/agent/v1/enrol"), ("POST", "/agent/v1/installed")}
"""Requests whose body has a ticket instead."""

ROUTES = sorted(
    (route.method, route.resource.canonical)
    for route in agents.application(None).router.routes()  # type: ignore[arg-type] # nobody asks it
    if route.resource is not None and route.method != "HEAD"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    with provider_process(tmp_path_factory.mktemp("agent-https")) as process:
        yield process


def path_of(route: tuple[str, str]) -> str:
    return route[1].replace("{id}", "op-1")


def encoded(document: object) -> bytes | None:
    return None if document is None else json.dumps(document).encode()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def events_of(served: ProviderProcess, machine: str) -> list[str]:
    answer = served.operator("GET", f"/v1/events?machine={machine}&limit=1000")
    return [event["name"] for event in json.loads(answer.body)["events"]]


def tells_nothing(answer: Answer) -> bool:
    """No traceback, no path, no line of code."""
    return not any(word in answer.text for word in ("Traceback", ".py", "provider.", "/state"))


def test_table_knows_every_route() -> None:
    """A route was added that none of these tests tries."""
    assert set(ROUTES) == set(GOOD) | WITHOUT_TOKEN


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic eDp5"}, bearer("a" * 5000)]
)
def test_strangers_get_nowhere(served: ProviderProcess, route: tuple[str, str], headers: dict[str, str]) -> None:
    """Somebody without a token is let in, or learns something."""
    document = GOOD[route][0] if route in GOOD else served.enrolment("wrong")
    answer = served.agent(route[0], path_of(route), encoded(document), headers)
    assert answer.status in (400, 401, 403), answer.text
    assert tells_nothing(answer)


@pytest.mark.parametrize("route", sorted(GOOD), ids=str)
def test_machines_with_a_token_get_in(served: ProviderProcess, route: tuple[str, str]) -> None:
    """A route does not do what the agent needs."""
    token, _ = served.enrolled()
    document, status = GOOD[route]
    answer = served.agent(route[0], path_of(route), encoded(document), bearer(token))
    assert answer.status == status, answer.text


@pytest.mark.parametrize("route", [route for route in ROUTES if route[0] != "GET"], ids=str)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"{}", b'{"percent": "many"}', b'{"percent": 1e999}',
        b"[" * 100_000,
        b'{"ticket": 5, "error": []}', b'{"wipe_report": {"disks": 5}}', b'{"disks": [{"path": null}]}',
    ],
)  # fmt: skip
def test_bad_bodies(served: ProviderProcess, route: tuple[str, str], body: bytes) -> None:
    """An agent of another version, or somebody who plays, makes the daemon stumble."""
    token, _ = served.enrolled()
    answer = served.agent(route[0], path_of(route), body, bearer(token))
    assert answer.status == 400, answer.text
    assert tells_nothing(answer)


@pytest.mark.parametrize("route", [route for route in ROUTES if route[0] != "GET"], ids=str)
def test_endless_bodies(served: ProviderProcess, route: tuple[str, str]) -> None:
    """Somebody fills the memory."""
    token, _ = served.enrolled()
    answer = served.agent(route[0], path_of(route), b" " * (agents.BODY_LIMIT + 1), bearer(token))
    assert answer.status == 413, answer.text


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES}))
@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "BREW"])
def test_other_methods(served: ProviderProcess, path: str, method: str) -> None:
    """A method that is not in the table does something."""
    assert served.agent(method, path.replace("{id}", "op-1")).status in (400, 405)


def test_a_ticket_is_good_once(served: ProviderProcess) -> None:
    """A second machine that replays a ticket becomes the first one (design: enrolment)."""
    ticket = served.ticket()
    first = served.agent("POST", "/agent/v1/enrol", encoded(served.enrolment(ticket)))
    assert first.status == 200
    machine = json.loads(first.body)["machine_id"]
    replay = served.agent("POST", "/agent/v1/enrol", encoded(served.enrolment(ticket, nonce="1" * 32)))
    assert replay.status == 403
    assert "token" not in replay.text
    assert tells_nothing(replay)
    assert "ticket.refused" in events_of(served, machine)
    # The first one asks again, because the answer was lost on its way.
    again = served.agent("POST", "/agent/v1/enrol", encoded(served.enrolment(ticket)))
    assert again.status == 200


def test_a_ticket_is_for_the_machine_it_was_made_for(served: ProviderProcess) -> None:
    """A machine enrols with the ticket of another."""
    ticket = served.ticket()
    answer = served.agent("POST", "/agent/v1/enrol", encoded(served.enrolment(ticket, OTHER_MAC)))
    assert answer.status == 403, answer.text


def test_an_agents_ticket_installs_nothing(served: ProviderProcess) -> None:
    """A machine says that it is installed with the ticket of its agent, and boots from a disk that was never written."""
    answer = served.agent("POST", "/agent/v1/installed", encoded({"ticket": served.ticket()}))
    assert answer.status == 403, answer.text


def test_a_new_boot_ends_the_old_token(served: ProviderProcess) -> None:
    """Who stole a token keeps it for ever."""
    old, _ = served.enrolled()
    new, _ = served.enrolled()
    assert served.agent("PUT", "/agent/v1/inventory", encoded(INVENTORY), bearer(old)).status == 401
    assert served.agent("PUT", "/agent/v1/inventory", encoded(INVENTORY), bearer(new)).status == 204


def test_tokens_are_of_one_machine(served: ProviderProcess) -> None:
    """The inventory of one machine lands at another."""
    token, machine = served.enrolled()
    other_token, other = served.enrolled(OTHER_MAC)
    assert machine != other
    assert token != other_token
    assert served.agent("PUT", "/agent/v1/inventory", encoded(INVENTORY), bearer(other_token)).status == 204
    shown = json.loads(served.operator("GET", f"/v1/machines/{other}").body)
    assert shown["inventory"]["system"]["serial"] == "S1"


def test_waiting_for_work_is_bounded(served: ProviderProcess) -> None:
    """An agent that asks for an endless poll gets one, or one that asks for nonsense gets a crash."""
    token, _ = served.enrolled()
    for wait in ("-5", "0", "nan", "0.2"):
        assert served.agent("GET", f"/agent/v1/work?wait={wait}", None, bearer(token)).status == 204
    for wait in ("x", "", "1;2"):
        assert served.agent("GET", f"/agent/v1/work?wait={wait}", None, bearer(token)).status == 400


def test_plain_http_and_half_handshakes(served: ProviderProcess) -> None:
    """Somebody who does not finish a handshake keeps agents out."""
    token, _ = served.enrolled()
    held = [socket.create_connection((ADDRESS, 8443), timeout=30) for _ in range(50)]
    held[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    held[1].sendall(b"\x16\x03\x01\x40\x00\x01")
    started = time.monotonic()
    assert served.agent("GET", "/agent/v1/work?wait=0", None, bearer(token)).status == 204
    assert time.monotonic() - started < agents.REQUEST_SECONDS
    for sock in held:
        sock.close()


def test_only_the_pinned_certificate(served: ProviderProcess) -> None:
    """Agents cannot tell the provider from somebody in between, or old TLS is spoken."""
    pem = served.boot("GET", "/ca.pem").text
    context = ssl.create_default_context(cadata=pem)
    context.check_hostname = False  # The name is in provider/wire/agent.py; addresses change.
    with socket.create_connection((ADDRESS, 8443), timeout=30) as raw, context.wrap_socket(raw) as tls:
        assert tls.version() == "TLSv1.3"
    old = run("curl", "-sk", "--tls-max", "1.1", f"https://{ADDRESS}:8443/agent/v1/work")
    assert old.returncode == 35, "no handshake"
