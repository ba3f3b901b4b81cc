"""Traces are written in a process that has loaded a model, too: nnsight gives every object a `save`, at which anyio,
which httpx imports at its first request, refuses to be imported."""

from __future__ import annotations

import subprocess
import sys

_CHILD = """
import sys
import nnsight
assert "anyio._backends._asyncio" not in sys.modules and "save" in vars(object)
from kvsteer_lab.tasks.traces.http_request import RequestFailed, send
try:
    send("GET", "http://127.0.0.1:9/v1/models", 5)
except RequestFailed as error:
    print(error)
assert vars(object)["save"] is nnsight.save or callable(object().save)
"""


def test_a_request_works_after_nnsight_was_imported() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Connection refused\n"
