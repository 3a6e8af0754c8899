"""The power API of Sidero's QEMU helpers: where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provider.bmc import http_power
from provider.domain.errors import NotFoundError, PermanentError, RefusedError
from provider.reconcile.omni import _bmc
from provider.wire import omni

UUID = "4c4c4544-0042-3510-8052-b4c04f4e4e31"
OTHER = "4c4c4544-0042-3510-8052-b4c04f4e4e32"


@pytest.mark.parametrize("address", ["10.5.0.1:40001", "helper.example.com:1"])
def test_access(address: str) -> None:
    """An address of Omni's is not understood."""
    bmc = http_power.access(address)
    assert (bmc.name, bmc.kind, bmc.user) == (address, "api", "")


@pytest.mark.parametrize(
    "address",
    ["", "10.5.0.1", "10.5.0.1:", ":80", "10.5.0.1:0", "10.5.0.1:99999", "a/b:80", "user@host:80", "x:8\u00b2"],
)
def test_what_is_no_address(address: str) -> None:
    """A slip in Omni becomes a URL to somewhere else."""
    with pytest.raises(PermanentError, match="HOST:PORT"):
        http_power.access(address)


@pytest.mark.parametrize(
    "config",
    [
        {"NodeUUID": UUID, "GatewayAddrs": ["10.5.0.1"], "APIPort": 40001},
        {
            "NodeUUID": UUID.upper(),
            "Network": {"GatewayAddrs": ["10.5.0.1", "10.6.0.1"]},
            "APIBindAddress": {"Port": 40001},
        },
        {"NodeUUID": UUID, "GatewayAddrs": ["9.9.9.9"], "Network": {"GatewayAddrs": ["10.5.0.1"]}, "APIPort": 40001},
    ],
    ids=["old", "new", "both"],
)
def test_found_in_the_helpers_files(tmp_path: Path, config: dict[str, Any]) -> None:
    """The files of a newer or older helper are not understood."""
    (tmp_path / "m-1.config").write_text(json.dumps({"NodeUUID": OTHER, "GatewayAddrs": ["1.1.1.1"], "APIPort": 1}))
    (tmp_path / "m-2.config").write_text(json.dumps(config))
    assert http_power.find(tmp_path, UUID).name == "10.5.0.1:40001"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({"NodeUUID": UUID}),
        json.dumps({"NodeUUID": UUID, "GatewayAddrs": [], "APIPort": 1}),
        json.dumps({"NodeUUID": UUID, "GatewayAddrs": [7, {}], "APIPort": "x"}),
        json.dumps({"NodeUUID": UUID, "GatewayAddrs": ["10.5.0.1"], "APIBindAddress": 3}),
    ],
)
def test_files_that_tell_nothing(tmp_path: Path, text: str) -> None:
    """A file of something else is a traceback."""
    (tmp_path / "m-1.config").write_text(text)
    with pytest.raises(NotFoundError, match=UUID):
        http_power.find(tmp_path, UUID)


def test_no_folder_at_all(tmp_path: Path) -> None:
    """An agent in test mode, at a site that has no helper, is a traceback."""
    with pytest.raises(NotFoundError, match="test mode"):
        http_power.find(tmp_path / "missing", UUID)


def test_what_omni_configures() -> None:
    """A power API of Omni's is refused, or its IPMI address is taken where both are there."""
    both = omni.BmcAccess(ipmi=omni.Ipmi("10.0.0.9", 0, "ops", "pw"), api=omni.PowerApi("10.5.0.1:40001"))
    assert (_bmc(UUID, both).kind, _bmc(UUID, both).name) == ("api", "10.5.0.1:40001")
    assert _bmc(UUID, omni.BmcAccess(ipmi=both.ipmi)).name == "10.0.0.9:623"
    with pytest.raises(RefusedError, match="neither"):
        _bmc(UUID, omni.BmcAccess())
