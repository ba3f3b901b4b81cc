"""What ruff says of the code on newer Pythons than the oldest one that is supported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NEWER = {"UP043", "UP046", "UP047"}
"""They propose what Python 3.11 doesn't know: type parameters in brackets (3.12), defaults of `Generator` (3.13)."""


@pytest.mark.parametrize("target", ["py311", "py312", "py313"])
def test_newer_pythons_find_nothing_but_newer_syntax(target: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--no-cache",
        "--output-format",
        "json",
        "--target-version",
        target,
    ]
    done = subprocess.run([*command, "."], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    found = [(each["code"], each["filename"], each["location"]) for each in json.loads(done.stdout)]
    assert not [each for each in found if each[0] not in NEWER]
    assert target != "py311" or not found
