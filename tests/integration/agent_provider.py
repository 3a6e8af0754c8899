"""A provider as the agent's tests need it: real HTTPS with its own CA, answers told by the test, all calls kept."""

from __future__ import annotations

import datetime
import hashlib
import json
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provider.wire.agent import SERVER_NAME

_LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@dataclass
class Certificates:
    """A CA and a server certificate, both long expired: the agent must not mind (clocks in racks lie)."""

    folder: Path
    name: str = SERVER_NAME
    ca_pem: bytes = b""
    ca_sha256: str = ""
    chain: Path = field(init=False)

    def __post_init__(self) -> None:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("test CA", ca_key, "test CA", ca_key, x509.BasicConstraints(ca=True, path_length=0))
        server = _certificate(self.name, key, "test CA", ca_key, x509.SubjectAlternativeName([x509.DNSName(self.name)]))
        self.ca_pem = ca.public_bytes(serialization.Encoding.PEM)
        self.ca_sha256 = hashlib.sha256(ca.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.chain = self.folder / "server.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.chain.write_bytes(private + server.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]),
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_LONG_AGO,
        not_valid_after=_LONG_AGO + datetime.timedelta(days=30),
    )
    return builder.add_extension(extension, critical=True).sign(issuer_key, hashes.SHA256())


@dataclass
class Call:
    """One request that came in."""

    method: str
    path: str
    body: Any
    token: str


class AgentProvider:
    """
    Answers like the provider. `work` holds what the next long polls give; `answers` overrides the status of a path's
    next calls (`{"/agent/v1/enrol": [503, 403]}`); `calls` is everything that was asked, in order.
    """

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        certificates: Certificates | None = None,
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        self.certificates = certificates or Certificates(folder)
        self.work: queue.Queue[dict[str, Any]] = queue.Queue()
        self.calls: queue.Queue[Call] = queue.Queue()
        self.answers: dict[str, list[int]] = {}
        self.close_after_answer = False
        self._connections: list[socket.socket] = []
        self._plain = ThreadingHTTPServer((address, ports[0]), self._handler())
        self._tls = ThreadingHTTPServer((address, ports[1]), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.chain)
        self._tls.socket = context.wrap_socket(self._tls.socket, server_side=True)
        self.ports = self._plain.server_port, self._tls.server_port
        self.boot_url = f"http://{address}:{self._plain.server_port}"
        self.url = f"https://{address}:{self._tls.server_port}"

    @contextmanager
    def running(self) -> Iterator[AgentProvider]:
        """Serve until the end of the block, then cut all connections."""
        servers = (self._plain, self._tls)
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()
            for connection in self._connections:
                with suppress(OSError):  # Closed already.
                    connection.shutdown(socket.SHUT_RDWR)

    def expect(self, path_end: str, seconds: float) -> Call:
        """Wait for the next call whose path ends so; calls before it are dropped."""
        while True:
            call = self.calls.get(timeout=seconds)
            if call.path.partition("?")[0].endswith(path_end):
                return call

    def answer(self, call: Call) -> tuple[int, object]:
        """Decide on the answer of one call."""
        path = call.path.partition("?")[0]
        if self.answers.get(path):
            return self.answers[path].pop(0), {"error": "told so by the test"}
        if path == "/agent/v1/enrol":
            return 200, {"token": "token-1", "machine_id": "m-1", "not_known_yet": True}
        if path == "/agent/v1/installed":
            return 204, None
        if call.token != "token-1":
            return 401, {"error": "no such token"}
        if path == "/agent/v1/work":
            try:
                return 200, self.work.get(timeout=min(float(call.path.partition("wait=")[2]), 1.0))
            except queue.Empty:
                return 204, None
        return 204, None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                provider._connections.append(self.connection)

            def _serve(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                call = Call(self.command, self.path, json.loads(raw) if raw else None, token)
                provider.calls.put(call)
                if self.path == "/ca.pem":
                    self._reply(200, provider.certificates.ca_pem)
                else:
                    status, document = provider.answer(call)
                    self._reply(status, b"" if document is None else json.dumps(document).encode())

            do_GET = do_PUT = do_POST = _serve  # noqa: N815 - names given by http.server.

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if provider.close_after_answer:
                    self.send_header("Connection", "close")
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(
                self,
                format: str,  # noqa: A002 - its name in http.server.
                *args: object,
            ) -> None:
                """Stay quiet."""

        return Handler
