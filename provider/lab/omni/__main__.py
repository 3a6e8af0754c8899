"""
The fake Omni as a program of its own, so that it can be killed: `python -m provider.lab.omni --state FOLDER --listen HOST:PORT`.

When everything is served it writes one line of JSON to standard output: `endpoint`, `machines`, `factory`, `ca` and `desk`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from provider.domain.errors import PermanentError
from provider.lab.omni.fake import Address, FakeOmni, Options
from provider.lab.omni.join import JoinMode


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    try:
        asyncio.run(_run(_options()))
    except PermanentError as error:
        sys.exit(f"omni: {error}\nhint: {error.hint}")


async def _run(options: Options) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with FakeOmni(options) as omni:
        where = {
            "endpoint": omni.endpoint,
            "machines": omni.machines_url,
            "factory": omni.factory_url,
            "ca": str(omni.ca_file or ""),
            "desk": str(options.desk),
        }
        sys.stdout.write(json.dumps(where) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m provider.lab.omni", description="A fake Omni for lab and tests.")
    parser.add_argument("--state", type=Path, required=True, metavar="FOLDER", help="what a restart still knows")
    parser.add_argument("--listen", type=_address, default="127.0.0.1:0", metavar="HOST:PORT", help="gRPC")
    parser.add_argument(
        "--machines", type=_address, default="127.0.0.1:0", metavar="HOST:PORT", help="machines come here"
    )
    parser.add_argument(
        "--factory", type=_address, default="127.0.0.1:0", metavar="HOST:PORT", help="the Image Factory"
    )
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="images of the factory")
    parser.add_argument("--tls", action="store_true", help="gRPC over TLS, with a CA in FOLDER/tls")
    parser.add_argument("--history", type=int, default=10_000, metavar="N", help="events kept for each kind")
    parser.add_argument("--join-mode", type=JoinMode, default=JoinMode.LEGACY_ALLOWED, choices=list(JoinMode))
    parser.add_argument("--old", action="store_true", help="an Omni from before ProviderJoinConfigs")
    given = parser.parse_args()
    return Options(
        folder=given.state,
        listen=given.listen,
        machines=given.machines,
        factory=given.factory,
        desk=given.state / "desk.sock",
        files=given.files,
        tls=given.tls,
        history=given.history,
        join_mode=given.join_mode,
        old=given.old,
    )


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    main()
