"""Our own side: `bootwright serve` with an ordinary configuration file, as a service runs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import yaml

from bench import stage
from bench.stage import Stage
from provider.lab.daemons import bootwright
from provider.lab.processes import Process

AGENT_PORT = 8443
"""What is listened on last: who can connect there finds everything."""

POOL: Mapping[str, str] = {"first": "10.77.1.0", "last": "10.77.250.255"}


@contextlib.asynccontextmanager
async def serving(on: Stage, changes: Mapping[str, object] | None = None) -> AsyncIterator[Process]:
    """Run it; `changes` are further sections of its configuration."""
    configuration = on.folder / "provider.yaml"
    document = {
        "provider": {"id": "bench", "state_dir": str(on.folder / "provider")},
        "network": {"interfaces": [{"name": stage.INTERFACE, "dhcp": "server", "pool": POOL}]},
        "operator": {"socket": str(on.folder / "operator.sock")},
        "assets_dir": str(on.assets),
        "log": {"level": "warning"},  # As quiet as the peers are told to be.
        **(changes or {}),
    }
    configuration.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = on.on_server(*bootwright("serve", "--config", configuration))
    async with on.running("bootwright", command, ("tcp", AGENT_PORT)) as process:
        yield process
