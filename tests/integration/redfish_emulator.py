"""sushy-emulator, a Redfish service that others wrote, as a process of its own; its machines exist on paper only."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import bcrypt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.redfish_bmc import PASSWORD, USER

PORT = 443

UUIDS = ("11111111-2222-4333-8444-555555555551", "11111111-2222-4333-8444-555555555552")


def certificate(folder: Path, begins: datetime | None = None) -> tuple[Path, Path]:
    """A certificate that signs itself, for 127.0.0.1 and a day, and its key; as files."""
    begins = begins or datetime.now(UTC) - timedelta(hours=1)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bmc")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "bmc.pem", folder / "bmc.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@contextlib.contextmanager
def emulator(folder: Path, uuids: Sequence[str] = UUIDS[:1], begins: datetime | None = None) -> Iterator[Path]:
    """HTTPS at port 443, with Basic authentication for two users, and a system for each UUID; gives its certificate."""
    cert, key = certificate(folder, begins)
    users = folder / "users"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    users.write_text("".join(f"{user}:{hashed}\n" for user in (USER, "admin")))
    systems = [{"uuid": uuid, "name": uuid[-4:], "power_state": "Off", "nics": []} for uuid in uuids]
    settings = {
        "LISTEN_IP": "0.0.0.0",
        "LISTEN_PORT": PORT,
        "AUTH_FILE": str(users),
        "STATE_DIR": str(folder),
        "FAKE_SYSTEMS": systems,
    }
    config = folder / "emulator.conf"
    config.write_text("".join(f"SUSHY_EMULATOR_{name} = {value!r}\n" for name, value in settings.items()))
    program = Path(sys.executable).with_name("sushy-emulator")
    command = [program, "--config", config, "--fake", "--ssl-certificate", cert, "--ssl-key", key]
    with (folder / "emulator.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _await_port(process)
            yield cert
        finally:
            process.kill()


def _await_port(process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("the emulator does not listen; see emulator.log")
