"""Threads sleep while they wait, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
PRINT = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('OMP_NUM_THREADS'))"


@pytest.mark.parametrize(
    ("first", "given", "found"),
    [
        ("", {}, "PASSIVE None"),
        ("", {"OMP_NUM_THREADS": "2"}, "PASSIVE 2"),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ("", {"GOMP_SPINCOUNT": "100"}, "None None"),
        ("import sys; sys.modules['torch'] = None; ", {}, "None None"),
    ],
)
def test_the_caller_s_environment_goes_first(first: str, given: dict[str, str], found: str) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in (*NAMES, "OMP_NUM_THREADS")}
    code = f"{first}import kvsteer_lab; {PRINT}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found
