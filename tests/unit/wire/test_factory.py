"""What an Image Factory answers."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provider.domain.errors import MalformedPacketError
from provider.wire import factory
from provider.wire.factory import Script

ID = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
IMAGES = f"https://pxe.factory.talos.dev/image/{ID}/v1.11.2"


def test_script_of_a_kernel() -> None:
    """A machine is given no RAM disk, or the wrong arguments."""
    script = f"#!ipxe\n\nimgfree\nkernel {IMAGES}/kernel-amd64 talos.platform=metal console=tty0 \ninitrd {IMAGES}/i.xz\nboot\n"
    assert factory.read_script(script.encode()) == Script(
        f"{IMAGES}/kernel-amd64", (f"{IMAGES}/i.xz",), ("talos.platform=metal", "console=tty0")
    )


def test_script_of_a_unified_image() -> None:
    """A machine with Secure Boot gets nothing."""
    script = f"#!ipxe\n\nimgfree\nkernel {IMAGES}/metal-amd64-secureboot-uki.efi a=1\nboot\n"
    assert factory.read_script(script.encode()) == Script(f"{IMAGES}/metal-amd64-secureboot-uki.efi", (), ("a=1",))


@pytest.mark.parametrize(
    "script",
    [b"", b"<html>", b"#!ipxe\nboot\n", b"#!ipxe\nkernel\n", b"#!ipxe\nkernel a\nkernel b\n", b"#!ipxe\nchain --replace x\n",
     b"#!ipxe\nkernel a\ninitrd --name x y\n", b"#!ipxe\n||\n"],
)  # fmt: skip
def test_other_scripts(script: bytes) -> None:
    """What we do not understand is half done."""
    with pytest.raises(MalformedPacketError):
        factory.read_script(script)


@given(st.binary() | st.binary().map(lambda rest: b"#!ipxe\nkernel " + rest))
def test_any_script(script: bytes) -> None:
    """Any bytes end in a traceback."""
    try:
        factory.read_script(script)
    except MalformedPacketError as error:
        assert str(error)


def test_id() -> None:
    """A schematic that was posted is not known."""
    assert factory.schematic_id(json.dumps({"id": ID, "schematic": "customization: {}\n"}).encode()) == ID


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'{"id": 1}',
        b'{"id": "../x"}',
        b"\xff",
        b"[" * 99_999,
        f'{{"id":"{ID}0"}}'.encode(),
    ],
)
def test_no_id(answer: bytes) -> None:
    """A path is made of something that is no id."""
    with pytest.raises(MalformedPacketError):
        factory.schematic_id(answer)


def test_body() -> None:
    """The factory reads another schematic than was meant, or the same has two bodies."""
    schematic = {
        "customization": {"extraKernelArgs": ["a=ключ", "no: 1"], "systemExtensions": {"officialExtensions": ["a"]}}
    }
    body = factory.schematic_body(schematic)
    assert yaml.safe_load(body) == schematic
    assert body == factory.schematic_body({"customization": dict(reversed(schematic["customization"].items()))})
