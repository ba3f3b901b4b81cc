"""A search, a reproduction and a replication that are killed at any moment go on, and end as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")
@pytest.mark.parametrize(
    ("what", "kills"),
    [
        ("tune", 2),
        pytest.param("tune", 20, marks=pytest.mark.slow),
        pytest.param("reproduce", 12, marks=pytest.mark.slow),
        pytest.param("replicate", 12, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_it_ends_the_same(what: str, kills: int, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).parents[1] / "killing_work.py", what, tmp_path, str(kills), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["same"], (told["wanted"], told["found"])
    assert sum(hit["killed"] for hit in told["hits"]) >= 0.8 * kills, told["hits"]
    assert len({hit["files"][1] for hit in told["hits"]}) >= kills // 6, "they die at several stages"
    assert not [hit["left"] for hit in told["hits"] if hit["left"]], "no kernel outlives its parent"
