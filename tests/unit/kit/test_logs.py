"""Logs: what programs read is JSON, and no secret is in it."""

from __future__ import annotations

import json
import subprocess
import sys

LOGGING = """
import structlog
from provider.domain.secret import Secret
from provider.kit import logs
logs.configure("info", "auto")
log = structlog.get_logger()
log.debug("not.shown")
log.info("bmc.known", password=Secret("hunter2"))
hidden = "hunter2"
try:
    raise ValueError("broken")
except ValueError:
    log.exception("worker.failed")
"""


def test_json_without_secrets_or_locals() -> None:
    """A log line is no JSON, or a traceback prints local variables (invariant 8)."""
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["bmc.known", "worker.failed"]
    assert "hunter2" not in done.stderr
    assert "ValueError: broken" in lines[1]["exception"]


def test_nobody_writes_on_the_terminal() -> None:
    """Who calls himself by control characters clears an operator's screen, or writes log lines of his own."""
    script = """
import structlog
from provider.kit import logs
logs.configure("info", "console")
structlog.get_logger().info("dhcp.offered", name="é\\x1b[2J\\n2026[error]evil\\u202e\\udcff")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert r"\x1b[2J\n2026[error]evil\u202e\udcff" in line
    assert "\x1b[2J" not in line
