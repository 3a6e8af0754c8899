"""
The provider as the agent sees it: HTTPS with JSON, to the one authority whose fingerprint stood on the kernel line.

Who may be believed: the CA certificate comes over plain HTTP from anybody, and counts only if its SHA-256 is the one
that the boot script gave us. From then on only that CA is believed, for the one name SERVER_NAME, whatever address we
dial. The dates of certificates are not looked at: a machine in a rack has a clock of 1970 as often as not, and a
pinned, private CA gains nothing from them.

All calls are made by one thread, on one connection that is opened again when it breaks. Each has a deadline.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import socket
import ssl
import urllib.parse
from datetime import timedelta

from provider.agent import decode
from provider.domain.errors import MalformedPacketError, PermanentError, RefusedError, TemporaryError
from provider.domain.inventory import Inventory
from provider.wire import agent as wire

_TIMEOUT_SECONDS = 15.0
_MOST_BYTES = 4 << 20
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which the ssl module has no name."""


class TokenRefusedError(PermanentError):
    """The provider does not know our token any more (401)."""


class Provider:
    """One provider; `trust` must come before any other call, `enrol` before the rest."""

    def __init__(self, url: str, boot_url: str, ca_sha256: str) -> None:
        self._url = urllib.parse.urlsplit(url)
        self._boot_url = urllib.parse.urlsplit(boot_url)
        self._ca_sha256 = ca_sha256
        self._context: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""

    def trust(self) -> None:
        """
        Fetch the CA certificate and believe it from now on.

        Raises:
            TemporaryError: If it cannot be fetched.
            PermanentError: If it is not the one that the boot script named.
        """
        connection = http.client.HTTPConnection(
            self._boot_url.hostname or "", self._boot_url.port, timeout=_TIMEOUT_SECONDS
        )
        status, body = _exchange(connection, "GET", "/ca.pem", None, {})
        connection.close()
        if status != 200:
            raise _temporary(f"{self._boot_url.netloc} answers {status} to /ca.pem")
        self.believe(body)

    def believe(self, ca_pem: bytes) -> None:
        """
        Believe this CA from now on.

        Raises:
            PermanentError: If it is not the one that the boot script named.
        """
        self._context = pinned_context(ca_pem, self._ca_sha256)

    def enrol(self, enrolment: wire.Enrolment) -> wire.Enrolled:
        """
        Show the ticket; the token of the answer is used from now on.

        Raises:
            RefusedError: If the ticket is not (or no longer) good for this machine.
        """
        try:
            enrolled = decode.enrolled(self._ask("POST", "/agent/v1/enrol", enrolment))
        except MalformedPacketError as error:
            raise _temporary(f"the provider's answer to the enrolment makes no sense: {error}") from error
        self._token = enrolled.token
        return enrolled

    def report(self, inventory: Inventory) -> None:
        """Hand in the inventory."""
        self._ask("PUT", "/agent/v1/inventory", inventory)

    def next_work(self, wait_seconds: float) -> wire.Work | None:
        """
        Ask for something to do; None if there is nothing within `wait_seconds`.

        Raises:
            decode.UnknownWorkError: If the provider wants something that this agent cannot do.
        """
        answer = self._ask(
            "GET", f"/agent/v1/work?wait={wait_seconds:g}", None, timeout=wait_seconds + _TIMEOUT_SECONDS
        )
        try:
            return decode.work(answer) if answer else None
        except decode.UnknownWorkError:
            raise
        except MalformedPacketError as error:
            raise _temporary(f"the provider's work makes no sense: {error}") from error

    def progress(self, operation_id: str, progress: wire.Progress) -> bool:
        """Say how far an operation is; False if the provider no longer wants it."""
        status, _ = self._send("POST", _operation_path(operation_id, "progress"), progress)
        return status != 410

    def result(self, operation_id: str, result: wire.Result) -> None:
        """Say how an operation ended; one that nobody wants any more (410) is settled, too."""
        self._send("POST", _operation_path(operation_id, "result"), result)

    def installed(self, installed: wire.Installed) -> None:
        """
        Say that an installer is done; needs no token.

        Raises:
            RefusedError: If the ticket is not (or no longer) good.
        """
        self._ask("POST", "/agent/v1/installed", installed)

    def _ask(self, method: str, path: str, body: object, timeout: float = _TIMEOUT_SECONDS) -> object:
        status, answer = self._send(method, path, body, timeout)
        if status == 410:
            raise RefusedError(f"{method} {path}: no longer wanted")
        if not answer:
            return None
        try:
            return json.loads(answer)
        except ValueError as error:
            raise _temporary(f"{method} {path}: the answer is not JSON") from error

    def _send(self, method: str, path: str, body: object, timeout: float = _TIMEOUT_SECONDS) -> tuple[int, bytes]:
        """
        Make one request; 2xx and 410 come back, everything else is an error.

        Raises:
            TokenRefusedError: 401.
            RefusedError: Any other 4xx.
            TemporaryError: No connection, no answer in time, or 5xx.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        payload = None
        if body is not None:
            payload = json.dumps(dataclasses.asdict(body))  # type: ignore[call-overload]  # always a wire dataclass
            headers["Content-Type"] = "application/json"
        connection = self._open(timeout)
        try:
            status, answer = _exchange(connection, method, path, payload, headers)
        except TemporaryError:
            self.close()
            raise
        if 200 <= status < 300 or status == 410:
            return status, answer
        reason = f"{method} {path}: {status} {answer[:200].decode(errors='replace')}"
        if status == 401:
            raise TokenRefusedError(reason)
        if 400 <= status < 500:
            raise RefusedError(reason)
        raise _temporary(reason)

    def _open(self, timeout: float) -> http.client.HTTPConnection:
        if self._connection is None or self._connection.sock is None:  # The server may have closed it.
            self._connection = self._connect()
        self._connection.sock.settimeout(timeout)
        return self._connection

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            raise AssertionError("trust() comes first")
        host, port = self._url.hostname or "", self._url.port or 443
        connection = http.client.HTTPConnection(host, port)
        connection.auto_open = 0  # It would open a plain one, and send our token over it.
        plain = None
        try:
            plain = socket.create_connection((host, port), _TIMEOUT_SECONDS)
            connection.sock = self._context.wrap_socket(plain, server_hostname=wire.SERVER_NAME)
        except OSError as error:  # ssl.SSLError is one.
            if plain is not None:
                plain.close()
            raise _temporary(f"{self._url.netloc}: {error}") from error
        return connection

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def pinned_context(ca_pem: bytes, ca_sha256: str) -> ssl.SSLContext:
    """
    Make the TLS settings that believe exactly this CA.

    Raises:
        PermanentError: If `ca_pem` is no certificate, or its DER form has another SHA-256.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(ca_pem.decode("ascii").strip())
    except (ValueError, UnicodeDecodeError) as error:
        raise PermanentError("the CA that the provider offers is no certificate") from error
    found = hashlib.sha256(der).hexdigest()
    if found != ca_sha256:
        raise PermanentError(
            f"the CA that answers has the fingerprint {found[:16]}…, not the expected {ca_sha256[:16]}…",
            hint="somebody else answers at that address, or the provider got a new CA: restart the machine",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Checks names and certificates by default.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= _NO_CHECK_TIME
    context.load_verify_locations(cadata=der)
    return context


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, payload: str | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    try:
        connection.request(method, path, payload, headers)
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _temporary(
            f"{method} {connection.host}:{connection.port}{path}: {error or type(error).__name__}"
        ) from error


def _operation_path(operation_id: str, what: str) -> str:
    return f"/agent/v1/operations/{urllib.parse.quote(operation_id, safe='')}/{what}"


def _temporary(message: str) -> TemporaryError:
    return TemporaryError(message, retry_after=timedelta(seconds=1))
