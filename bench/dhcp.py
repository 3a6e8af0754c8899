"""
`./dev bench dhcp`: four-way exchanges a second, by perfdhcp, against Kea and dnsmasq.

Each server gets the same rates and the same 20,000 clients of one /16, so first leases and renewals come mixed. Then its best
rate is searched: the highest without drops. All keep their leases on disk in their own way: ours is committed and synced
before its DHCPACK leaves, Kea appends to a file and leaves the syncing to the kernel, dnsmasq writes its whole file anew.

Nobody looks whether an address is in use: Kea 2.2 cannot, dnsmasq is told not to, and ours does not behind a relay, as which
perfdhcp speaks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from bench import ours, perfdhcp, stage
from bench.perfdhcp import Step
from bench.report import Row, shown
from bench.stage import MeasurementError, Stage
from provider.lab.processes import Process

RATES = (500, 1000, 2000, 4000, 8000)
"""Exchanges a second that every server is offered."""

CLIENTS = 20_000
SECONDS = 5
TARGETS = {"Kea": 1.0, "dnsmasq": 10.0}

_KEA_THREADS = 2
_WAIT_MICROSECONDS = 100_000
"""For the last answers. Short: what a server that falls behind has not answered by then was not sustained."""
_DROPPED = 3
"""Exit status of perfdhcp when some exchanges were not completed."""

_Server = Callable[[Stage], AbstractAsyncContextManager[Process]]


async def run(on: Stage) -> list[Row]:
    """Measure all three."""
    servers: Mapping[str, _Server] = {"ours": ours.serving, "Kea": _kea, "dnsmasq": _dnsmasq}
    measured = {name: await _measure(on, name, server) for name, server in servers.items()}
    own = measured.pop("ours")
    return [row for peer, theirs in measured.items() for row in _rows(own, peer, theirs)]


async def _measure(on: Stage, name: str, server: _Server) -> list[Step]:
    async with server(on):
        await _offer(on, RATES[0])  # Caches are filled, memory is there.
        steps = [await _told(on, name, rate) for rate in RATES]
        while (further := perfdhcp.next_rate(steps)) is not None:
            steps.append(await _told(on, name, further))
    return steps


async def _told(on: Stage, name: str, rate: int) -> Step:
    step = await _offer(on, rate)
    delay = "no answer" if step.delay is None else f"{shown(step.delay)} ms"
    stage.say(f"{name}, {rate} a second offered: {shown(step.completed)} done, {shown(step.drops)} % dropped, {delay}")
    return step


async def _offer(on: Stage, rate: int) -> Step:
    command = ["perfdhcp", "-4", "-l", stage.LOAD_INTERFACE, "-R", str(CLIENTS), "-r", str(rate), "-p", str(SECONDS)]
    load = await on.load([*command, "-W", str(_WAIT_MICROSECONDS), stage.ADDRESS], statuses=(0, _DROPPED))
    try:
        return perfdhcp.read(rate, SECONDS, load.output)
    except ValueError as error:
        raise MeasurementError(f"{error}:\n{load.output}") from error


def _rows(own: Sequence[Step], peer: str, theirs: Sequence[Step]) -> list[Row]:
    rows = []
    for us, them in zip(own[: len(RATES)], theirs, strict=False):
        at = f"at {us.offered:,}/s offered"
        rows.append(Row(f"exchanges/s {at}", us.completed, peer, them.completed))
        rows.append(Row(f"% dropped {at}", us.drops, peer, them.drops))
        if us.delay is not None and them.delay is not None:
            rows.append(Row(f"ms of waiting in an exchange {at}", us.delay, peer, them.delay))
    best = Row("best sustained exchanges/s", perfdhcp.best(own), peer, perfdhcp.best(theirs), TARGETS[peer])
    return [*rows, best]


@contextlib.asynccontextmanager
async def _kea(on: Stage) -> AsyncIterator[Process]:
    folder = on.folder / "kea"
    folder.mkdir()
    first, last = ours.POOL["first"], ours.POOL["last"]
    document = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": [stage.INTERFACE]},
            "multi-threading": {"enable-multi-threading": True, "thread-pool-size": _KEA_THREADS},
            "lease-database": {"type": "memfile", "persist": True, "name": str(folder / "leases.csv")},
            "subnet4": [{"subnet": f"10.77.0.0/{stage.PREFIX}", "pools": [{"pool": f"{first}-{last}"}]}],
            "loggers": [{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{"output": "stderr"}]}],
        }
    }
    configuration = folder / "kea.json"
    configuration.write_text(json.dumps(document), encoding="utf-8")
    places = {"KEA_PIDFILE_DIR": str(folder), "KEA_LOCKFILE_DIR": str(folder)}
    async with on.running("kea", on.on_server("kea-dhcp4", "-c", configuration), ("udp", 67), places) as process:
        yield process


@contextlib.asynccontextmanager
async def _dnsmasq(on: Stage) -> AsyncIterator[Process]:
    options = [
        "--conf-file=/dev/null",
        "--port=0",
        "--keep-in-foreground",
        "--log-facility=-",
        "--quiet-dhcp",
        "--user=root",
        f"--interface={stage.INTERFACE}",
        "--bind-interfaces",
        "--dhcp-authoritative",
        "--no-ping",
        "--dhcp-lease-max=100000",
        f"--dhcp-leasefile={on.folder / 'dnsmasq.leases'}",
        f"--dhcp-range={ours.POOL['first']},{ours.POOL['last']},255.255.0.0,1h",
    ]
    async with on.running("dnsmasq", on.on_server("dnsmasq", *options), ("udp", 67)) as process:
        yield process
