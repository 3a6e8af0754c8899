"""A pool and a BMC with quirks, for the tests of Redfish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from provider.bmc.base import Power
from provider.bmc.pool import BmcPool
from provider.bmc.redfish import Redfish
from provider.domain.bmc import Bmc, RedfishUse
from provider.domain.secret import Secret
from tests.fakes.redfish_bmc import PASSWORD, USER, RedfishBmc, serving

DEADLINE = timedelta(seconds=8)

PLAIN = Redfish(https=False)


def access(port: int, user: str = USER, password: str = PASSWORD, system: str = "") -> Bmc:
    """How to reach a Redfish BMC on this host."""
    return Bmc("127.0.0.1", user, Secret(password), port, "redfish", system)


def with_pool(
    use: Callable[[BmcPool], Awaitable[None]],
    options: Redfish = PLAIN,
    deadline: timedelta = DEADLINE,
    wanted: RedfishUse = RedfishUse.AVAILABLE,
) -> None:
    """Run a test with a pool."""

    async def main() -> None:
        pool = BmcPool(deadline, wanted, options)
        try:
            async with asyncio.timeout(100):
                await use(pool)
        finally:
            await pool.close()

    asyncio.run(main())


def with_bmc(
    bmc: RedfishBmc,
    use: Callable[[Power], Awaitable[None]],
    options: Redfish = PLAIN,
    deadline: timedelta = DEADLINE,
    system: str = "",
) -> None:
    """Run a test with the way to this BMC."""

    async def main(pool: BmcPool) -> None:
        async with serving(bmc):
            await use(pool.power(access(bmc.port, system=system)))

    with_pool(main, options, deadline)
