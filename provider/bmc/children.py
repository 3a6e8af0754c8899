"""
A worker process seen from inside: a JSON request a line in, a JSON answer a line out, one call at a time, each in a child.

A call that crashes, leaks or leaves its library in disorder does so in a child made by fork, which costs 5 ms; a fresh
interpreter would cost 300. Whoever started this process ends it and its child when a call takes too long (`workers.py`).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(answer: Answer) -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _perform_and_exit(answer, json.loads(line))
        _, status = os.waitpid(child, 0)
        if status != 0:
            _write({"failed": "silent", "error": f"the call crashed with status {status}"})


def _perform_and_exit(answer: Answer, request: dict[str, Any]) -> NoReturn:
    """In the child: answer, and leave without running anybody's clean-up."""
    try:
        _write(answer(request))
    except BaseException:  # noqa: BLE001 - the parent reports it; nothing may run on in the child
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
