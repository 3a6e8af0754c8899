"""
The story with Omni: a machine joins it, is accepted, wiped by the agent of Talos, allocated, installed, released and removed.

It is the same script as `story`; here is what is different, because Omni names machines by their UUID, has no inventory and no
proof of a wipe, and says by itself when Talos is installed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from provider.kit.unixhttp import UnixHttpError
from provider.lab import summary
from provider.lab.lab import Lab
from provider.lab.omni_manager import OmniManager
from provider.lab.story import Actor, Story
from provider.lab.view import View
from provider.lab.witness import Report, StageError


class OmniActor(Actor):
    """One machine's part in the story."""

    stages = summary.OMNI_STAGES
    kernel = "kernel"

    @property
    def known_as(self) -> str:
        """What Omni calls it."""
        return self.machine.hardware.uuid

    async def be_discovered(self) -> None:
        """Boot Talos with its agent, and be at Omni: pending, every disk as it was."""
        report = await self._witnessed("joined", lambda: self._in_phase("pending"), self._patience.boot)
        self.id = self.row.id = await self._our_id()
        self._note("joined", report.at)
        await self._witnessed("agent", lambda: self._event("agent.enrolled"), self._patience.boot)
        self._says(f"at Omni as {self.known_as}, {report.phase}; {self.id} here")
        self.prove_untouched()

    async def end(self) -> None:
        """Be removed from Omni, which takes the provider to let go of it."""
        manager = self._lab.client
        assert isinstance(manager, OmniManager), "there is no such actor with another manager"  # noqa: S101
        self._since = datetime.now(UTC)
        await self._ask_manager(manager.remove(self.known_as))
        report = await self._witnessed("removed", lambda: self._in_phase("gone"), self._patience.report)
        self._note("removed", report.at)
        self._says("removed from Omni; the provider has let go of it")

    def _in_phase(self, phase: str) -> Report | None:
        report = self._lab.witness.reported(self.known_as)
        return report if report is not None and report.phase == phase else None

    def _installation(self) -> datetime | None:
        """When Omni took what the machine said for an installation."""
        report = self._lab.witness.reported(self.known_as)
        counted = report is not None and report.state["infra"]["spec"]["install_event_id"] > 0
        return report.at if report is not None and counted else None

    def _wiped_disks(self, _report: Report) -> list[dict[str, Any]]:
        """Talos tells nothing of them: it is we who looked at each from outside."""
        return [{"serial": disk.serial, "method": "talos", "verified": True} for disk in self.machine.hardware.disks]

    async def _our_id(self) -> str:
        try:
            found = await self._lab.operators.get(f"/v1/machines/{self.known_as}")
        except UnixHttpError as error:
            raise StageError("joined", f"the provider does not know {self.machine.name}: {error}") from error
        return str(found["id"])


def story_of(lab: Lab, view: View) -> Story:
    """The story that goes with the lab's manager."""
    return Story(lab, view, OmniActor if lab.settings.manager == "omni" else Actor)
