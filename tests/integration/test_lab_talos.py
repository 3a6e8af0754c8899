"""The lab's stand-in for Talos as a member of the fake Omni, without a machine around it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from provider.agent import power
from provider.domain.errors import TemporaryError
from provider.lab import lab_installer
from provider.lab.lab_talos import Documents, Member, Meta
from provider.lab.omni_manager import state
from tests.integration.omni_client import MACHINE
from tests.integration.omni_rig import Rig, rigged, until


def test_from_joining_to_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's machines do not join, are installed without Omni's consent, or forget who they are."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    restarts: list[str] = []
    monkeypatch.setattr(lab_installer, "mark_first_disk", lambda _mac: None)
    monkeypatch.setattr(power, "restart", restarts.append)

    async def use(rig: Rig) -> None:
        async with rig.link():
            await until(lambda: bool(rig.omni.desk.providers()[0]["status"]))
            documents = Documents(urlsplit(rig.omni.machines_url).netloc, rig.token(), "")
            member = Member(documents, MACHINE, Meta(disk))
            await asyncio.to_thread(member.join)
            assert state(rig.omni.desk.machine(MACHINE))["phase"] == "pending"
            await rig.omni.desk.accept(MACHINE)
            await until(lambda: rig.status() is not None)
            await rig.side.give_bmc()
            await rig.side.wiped()
            await until(lambda: bool(rig.status()["ready_to_use"]))
            await rig.omni.desk.allocate(MACHINE)
            await asyncio.to_thread(member.be_installed)
            assert restarts == ["installed"]
            assert rig.infra()["spec"]["install_event_id"] == 1
            assert rig.infra()["spec"]["node_unique_token"] == Meta(disk).read() != ""

            await asyncio.to_thread(Member(documents, MACHINE, Meta(disk)).join)
            stranger = Member(Documents(documents.omni, "v2:bm90aGluZw==", ""), MACHINE, Meta(disk))
            disk.write_bytes(bytes(1 << 20))
            with pytest.raises(TemporaryError, match="409"):
                await asyncio.to_thread(stranger.join)

    rigged(tmp_path, use)
