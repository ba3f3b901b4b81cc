"""No space left, at any moment of any command and any `save`: one sentence, the old file whole, nothing half written,
and the same end once there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filling_disk import SAVES
from interrupting import KEPT

LONG = ("tune", "demo", "replicate", "reproduce", "sweep")
FEW = ("vectors", "a figure", "evaluate --out")


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
@pytest.mark.parametrize(
    ("names", "times"),
    [
        (FEW, 2),
        pytest.param(SAVES, 6, marks=pytest.mark.slow),
        pytest.param(tuple(name for name in KEPT if name not in LONG), 6, marks=pytest.mark.slow),
        pytest.param(LONG, 4, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(names: tuple[str, ...], times: int, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).parent / "filling_disk.py", tmp_path, str(times), "0", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["name"] for each in told] == list(names)
    full = 0
    for each in told:
        ended = each["whole"][0]
        for attempt in each["tries"]:
            assert not attempt["hidden"] and attempt["kept"], attempt
            if attempt["code"] == ended:
                continue  # there was room enough
            full += 1
            last = attempt["said"].rstrip("\n").rpartition("\n")[2]
            # a sweep says why in its list of what failed, and at the end which shards to run again
            assert attempt["code"] == 1 and last.startswith("kvsteer: "), attempt
            assert "Traceback" not in attempt["said"] and ("ree some space" in last or each["name"] == "sweep"), attempt
        assert each["again"][0] == ended and each["same"], each
    assert full >= len(names) * times / 4, told
