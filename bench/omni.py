"""
`./dev bench omni`: many machines of one Omni, from their first boot script to the word that they may be used.

The daemon is `bootwright serve`; the fake Omni is a second process, the machines (Talos' agent, simulated) and their power are a
third. All machines boot and join at one moment, then they are accepted at one moment, wiped through their tunnels, reported as
ready and switched off. The first twenty are accepted before the others: what a change at Omni brings about is measured on them
while the others are under way, and on others when all is quiet. Then one machine is allocated.

A tenth of the machines goes through the same first, and stands beside: a ratio of 1 for each machine means that the cost of a
machine does not grow with their number. Sidero's own provider cannot be measured here: it is a Go program that needs its modules.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import omni_load, omni_site, stage
from bench.omni_load import address_of, uuid_of
from bench.omni_site import Site, Told
from bench.report import Row
from bench.stage import MeasurementError, Stage

MACHINES = 1000

PROBES = 20
"""Machines of which each is used once to see how long a change takes."""

FEWEST = 3 * PROBES
"""Those that are used under load, those that are used at rest, and others."""

REST_SECONDS = 60.0
"""Twice as long as from one greeting of an agent to the next, and as long as from one reading of a BMC to the next."""

_BETWEEN_PROBES = 0.3
_BOOT_PATH = f"http://{stage.ADDRESS}:{omni_load.BOOT_PORT}/boot.ipxe"


@dataclass(frozen=True)
class Figures:
    """What was seen with so many machines; times in seconds, memory in MB."""

    machines: int
    accepted: int
    """Those among them that were accepted at one moment."""
    memory_before: float
    memory_most: float
    memory_after: float
    cpu_to_join: float
    cpu_to_off: float
    cpu_of_tunnels: float
    """Share of one CPU at rest, with all tunnels open."""
    cpu_at_rest: float
    """Likewise, once all BMCs are known and read."""
    seconds_to_ready: float
    calls: Mapping[str, int]
    """To Omni, by method, from the first boot until all machines were ready and off."""
    under_load: Sequence[float]
    """From changes at Omni to what we did first."""
    at_rest: Sequence[float]
    others: Sequence[float]
    """Answers that strangers waited for while all machines were under way."""
    seconds_to_install: float


async def run(on: Stage, machines: int = MACHINES) -> list[Row]:
    """Measure a tenth of the machines, and all of them."""
    if machines < FEWEST:
        raise MeasurementError(f"{machines} machines are too few", hint=f"let it be {FEWEST} at least")
    stage.put_behind_load(omni_site.NETWORK)
    few = await measure(on, max(machines // 10, FEWEST))
    return rows(few, await measure(on, machines))


async def measure(on: Stage, machines: int) -> Figures:
    """One run, with a daemon and an Omni of its own."""
    folder = on.folder / f"omni-{machines}"
    folder.mkdir()
    on = replace(on, folder=folder)
    async with omni_site.at_work(on) as site:
        memory = site.memory()
        begun = site.cpu()
        async with omni_site.booting(on, machines):
            return await _story(site, machines, memory, begun)


async def _story(site: Site, machines: int, memory: float, begun: float) -> Figures:
    every = range(machines)
    probes, numbers = every[:PROBES], every[PROBES:]
    before = await site.calls()
    await _joined(site, len(every))
    joined = site.cpu() - begun
    stage.say(f"{len(every)} machines have joined, {joined:.1f} s of CPU")

    of_tunnels = await _share(site)
    await site.all_do(every, lambda number: _tell_power(site, number))
    await site.until("all BMCs were read", lambda: _asked(site, every, "status"))
    await site.all_do(probes, site.accept)
    await site.until("the first machines are ready and off", lambda: _off(site, probes))

    at_rest = await _share(site)
    stage.say(f"at rest: {of_tunnels:.1%} of a CPU for tunnels, {at_rest:.1%} with BMCs")

    cpu, since, others = site.cpu(), time.time(), list[float]()
    async with asyncio.TaskGroup() as group:
        stranger = group.create_task(_be_stranger(site, others))
        probing = group.create_task(_probe(site, probes))
        await site.all_do(numbers, site.accept)
        stage.say(f"all are accepted after {time.time() - since:.1f} s")
        await site.until("all machines are ready", lambda: _ready(site, every))
        stranger.cancel()
    seconds = max(site.log.ready.values()) - since
    await site.until("all are off", lambda: _off(site, numbers))
    to_off, calls = site.cpu() - cpu, await site.calls() - before
    stage.say(f"all are ready after {seconds:.1f} s, and off after {to_off:.1f} s of CPU")
    _check_wipes(await site.tell())
    quiet = await _probe(site, numbers[:PROBES])
    installed = await _install(site, numbers[-1])
    return Figures(
        machines=len(every),
        accepted=len(numbers),
        memory_before=memory,
        memory_most=site.memory("VmHWM"),
        memory_after=site.memory(),
        cpu_to_join=joined,
        cpu_to_off=to_off,
        cpu_of_tunnels=of_tunnels,
        cpu_at_rest=at_rest,
        seconds_to_ready=seconds,
        calls=calls,
        under_load=probing.result(),
        at_rest=quiet,
        others=others,
        seconds_to_install=installed,
    )


async def _share(site: Site) -> float:
    """Of a CPU, that the daemon uses while nothing happens."""
    started, cpu = time.monotonic(), site.cpu()
    await asyncio.sleep(REST_SECONDS)
    return (site.cpu() - cpu) / (time.monotonic() - started)


async def _joined(site: Site, count: int) -> None:
    async def holds() -> bool:
        await site.log.read()
        return len(site.log.held) == count and all(each["open"] for each in await site.tell())

    await site.until("all machines have joined", holds)


async def _tell_power(site: Site, number: int) -> None:
    address = f"{address_of(number)}:{omni_load.POWER_PORT}"
    await site.desk.do("set_bmc", machine=uuid_of(number), address=address, api=True)


async def _ready(site: Site, numbers: Sequence[int]) -> bool:
    await site.log.read()
    return all(uuid_of(number) in site.log.ready for number in numbers)


async def _asked(site: Site, numbers: Sequence[int], what: str) -> bool:
    told = await site.tell()
    return all(any(each == what for each, _ in told[number]["happened"]) for number in numbers)


async def _off(site: Site, numbers: Sequence[int]) -> bool:
    told = await site.tell()
    return await _ready(site, numbers) and not any(told[number]["on"] for number in numbers)


async def _probe(site: Site, numbers: Sequence[int]) -> list[float]:
    """Let one machine after the other be wanted on; gives how long until the provider told its BMC."""
    began = {}
    for number in numbers:
        began[number] = time.time()
        await site.desk.do("prefer_power", machine=uuid_of(number), power="ON")
        await asyncio.sleep(_BETWEEN_PROBES)
    await site.until("machines that are wanted on are switched on", lambda: _asked(site, numbers, "poweron"))
    told = await site.tell()
    return [_first(told[number], "pxeboot") - began[number] for number in numbers]


def _first(machine: Told, what: str) -> float:
    return min(float(at) for each, at in machine["happened"] if each == what)


async def _be_stranger(site: Site, waited: list[float]) -> None:
    """Ask for what any machine is answered at once."""
    while True:
        began = time.monotonic()
        async with site.machines.get(_BOOT_PATH) as response:
            await response.read()
        waited.append(time.monotonic() - began)
        await asyncio.sleep(0.02)


async def _install(site: Site, number: int) -> float:
    began = time.time()
    await site.desk.do("allocate", machine=uuid_of(number))

    async def holds() -> bool:
        await site.log.read()
        return uuid_of(number) in site.log.installed

    await site.until("the allocated machine is installed", holds)
    return site.log.installed[uuid_of(number)] - began


def _check_wipes(told: Sequence[Told]) -> None:
    wrong = [each["number"] for each in told if each["wipes"] != 1]
    if wrong:
        raise MeasurementError(f"{len(wrong)} machines were not wiped once, such as number {wrong[0]}")


def rows(few: Figures, many: Figures) -> list[Row]:
    """What many machines cost, beside few."""
    beside = f"{few.machines:,} machines"

    def row(what: str, of: Callable[[Figures], float]) -> Row:
        return Row(what, of(many), beside, of(few))

    def calls(method: str) -> Row:
        return row(f"calls to Omni a machine, {method}", lambda each: each.calls.get(method, 0) / each.machines)

    return [
        row("MB of memory without machines", lambda each: each.memory_before),
        row("MB of memory at most", lambda each: each.memory_most),
        row("MB of memory afterwards", lambda each: each.memory_after),
        row(
            "KB of memory a machine, at most",
            lambda each: (each.memory_most - each.memory_before) * 1024 / each.machines,
        ),
        row("ms of CPU a machine until it has joined", lambda each: 1000 * each.cpu_to_join / each.machines),
        row("ms of CPU a machine from acceptance to off", lambda each: 1000 * each.cpu_to_off / each.accepted),
        row("% of a CPU at rest, with all tunnels open", lambda each: 100 * each.cpu_of_tunnels),
        row("% of a CPU at rest, and with BMCs to read", lambda each: 100 * each.cpu_at_rest),
        row("s from the first acceptance to the last ready", lambda each: each.seconds_to_ready),
        *(calls(method) for method in sorted({*few.calls, *many.calls})),
        row("calls to Omni a machine, all", lambda each: sum(each.calls.values()) / each.machines),
        row("ms from a change to our action, at rest, median", lambda each: 1000 * statistics.median(each.at_rest)),
        row("ms from a change to our action, at rest, 95th percentile", lambda each: 1000 * _percentile(each.at_rest)),
        row(
            "ms from a change to our action, under load, median", lambda each: 1000 * statistics.median(each.under_load)
        ),
        row("ms from a change to our action, under load, 95th p.", lambda each: 1000 * _percentile(each.under_load)),
        row("ms for a stranger's script, under load, median", lambda each: 1000 * statistics.median(each.others)),
        row("ms for a stranger's script, under load, 95th percentile", lambda each: 1000 * _percentile(each.others)),
        row("ms for a stranger's script, under load, at most", lambda each: 1000 * max(each.others)),
        row("s from allocation to installed", lambda each: each.seconds_to_install),
    ]


def _percentile(values: Sequence[float], share: float = 0.95) -> float:
    return sorted(values)[int(share * (len(values) - 1))]
