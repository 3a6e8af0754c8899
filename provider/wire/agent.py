"""
What agent and provider say to each other, over HTTPS with JSON bodies.

The agent dials; the provider never does. Paths and bodies:

| Request | Body | Answer |
|---|---|---|
| `POST /agent/v1/enrol` | `Enrolment` | 200 `Enrolled`; 403 if the ticket is not good for this machine now |
| `PUT /agent/v1/inventory` | `domain.inventory.Inventory` | 204 |
| `GET /agent/v1/work?wait=SECONDS` | | 200 `Work`, or 204 when nothing came within `wait`; a sign of life |
| `POST /agent/v1/operations/ID/progress` | `Progress` | 204; 410 if the operation is no longer wanted: stop it |
| `POST /agent/v1/operations/ID/result` | `Result` | 204; sent again until answered |
| `POST /agent/v1/installed` | `Installed` | 204; authorised by the install ticket of the boot script |

All but `enrol` and `installed` carry `Authorization: Bearer TOKEN`; 401 means that the token is no longer good. Unknown
fields are ignored on both sides, so that either may be newer.

Trust: the kernel command line carries `bootwright.ca`, the SHA-256 of the provider's CA certificate (DER). The agent
fetches `/ca.pem` over plain HTTP, compares, and from then on believes only that CA for the name `SERVER_NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass

from provider.domain.operation import OperationKind, WipePlan, WipeReport

SERVER_NAME = "provider.bootwright.internal"
"""Name in the server certificate; the agent asks for it whatever address it dials."""

LONG_POLL_SECONDS = 25
"""How long the agent lets `work` wait; below the idle limits of proxies and switches."""

PROGRESS_SECONDS = 2
"""How often a running operation reports."""


@dataclass(frozen=True)
class KernelArguments:
    """What the boot script tells the agent, each as `bootwright.NAME=VALUE` on the kernel command line."""

    url: str
    """`https://10.77.0.1:8443`"""
    boot_url: str
    """`http://10.77.0.1:8080`"""
    ca: str
    """SHA-256 of the CA certificate in DER, lower-case hex."""
    ticket: str
    mac: str
    """The interface that the machine booted from."""


@dataclass(frozen=True)
class Enrolment:
    """The agent's first words. `nonce` is 32 random hex digits made once per boot: a repeated call with the same ticket
    and nonce gets an answer again, another nonce does not."""

    ticket: str
    nonce: str
    uuid: str
    serial: str
    board_serial: str
    chassis_serial: str
    macs: tuple[str, ...]
    firmware: str
    agent_version: str


@dataclass(frozen=True)
class Enrolled:
    """The token to use from now on, and who we think this is."""

    token: str
    machine_id: str


@dataclass(frozen=True)
class Work:
    """One operation to perform; one that already runs in the agent is not started again."""

    id: str
    machine_id: str
    kind: OperationKind
    wipe_plan: WipePlan | None = None


@dataclass(frozen=True)
class Progress:
    """0 to 100 over all disks; `doing` is one sentence for people."""

    percent: int
    doing: str = ""


@dataclass(frozen=True)
class Result:
    """How an operation ended; `error` is empty if and only if it succeeded, and is never left out."""

    error: str
    wipe_report: WipeReport | None = None


@dataclass(frozen=True)
class Installed:
    """An installer says that it is done; `error` tells that it failed."""

    ticket: str
    error: str = ""
