"""The fake Talos agent's protocol buffers, written by hand, against ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.lab.omni.talos_agent import machine, wire
from provider.lab.omni.talos_agent.tunnel import _timeout
from provider.wire import protobuf, tunnel

int64 = st.integers(-(2**63), 2**63 - 1)


@given(int64, st.integers(0, 2**32 - 1), st.binary(max_size=300))
def test_both_readings_agree(number: int, size: int, data: bytes) -> None:
    """The fake and we are wrong in the same way, or in different ones."""
    frame = tunnel.ServerToClient(number, response_message=tunnel.MessageData(size, data))
    raw = wire.put(1, number) + wire.put(3, wire.put(1, size) + wire.put(2, data))
    assert protobuf.decode(tunnel.ServerToClient, raw) == frame
    fields = wire.read(protobuf.encode(frame))
    assert wire.signed(wire.last(fields, 1, 0)) == number
    message = wire.last(fields, 3, b"")
    assert isinstance(message, bytes)
    assert wire.last(wire.read(message), 2, b"") == data


@given(st.binary(max_size=60))
def test_any_bytes(raw: bytes) -> None:
    """The fake falls over what it reads."""
    try:
        wire.read(raw)
    except wire.NotProtobufError:
        return


@pytest.mark.parametrize(("text", "seconds"), [("3S", 3.0), ("250m", 0.25), ("2H", 7200.0), ("", None), ("xS", None)])
def test_timeout(text: str, seconds: float | None) -> None:
    """A call of ours never ends in the fake."""
    metadata = tunnel.Metadata({"grpc-timeout": tunnel.Values((text,)), "other": tunnel.Values(("1S",))})
    assert _timeout(protobuf.encode(metadata)) == seconds


def test_kernel_argument() -> None:
    """A machine that boots with the fake does not find us."""
    line = "console=ttyS0 metal.provider.address=https://10.0.0.1:50043 metal.provider.address=10.0.0.2:50042 quiet"
    assert machine.kernel_argument("metal.provider.address", line) == "10.0.0.2:50042"
    assert machine.kernel_argument("metal.provider", line) == ""


@pytest.mark.parametrize("zeroes", [False, True])
def test_erase(tmp_path: Path, zeroes: bool) -> None:
    """The fake leaves tables on disks, or writes beyond them."""

    disk = tmp_path / "disk"
    disk.write_bytes(b"\xaa" * (5 << 20))
    asyncio.run(machine.erase(disk, zeroes=zeroes))
    content = disk.read_bytes()
    assert len(content) == 5 << 20
    assert not any(content[: 1 << 20])
    assert not any(content[-(1 << 20) :])
    assert any(content) is not zeroes
