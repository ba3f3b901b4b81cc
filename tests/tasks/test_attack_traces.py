"""Traces that are killed at any moment, again and again: no reply that was written is lost, or asked for again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import racing
from killing_traces import A_FILE, AT_A_TIME, QUESTIONS, STAGES


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")
@pytest.mark.parametrize(("kills", "seed"), [(12, 0), pytest.param(288, 1, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_goes_on(kills: int, seed: int, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).parents[1] / "killing_traces.py", tmp_path, str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sum(told["kinds"].values()) >= 0.9 * kills, told
    assert kills < 100 or set(told["kinds"]) == {"from outside", *STAGES}
    for file in told["files"]:
        assert file["rows"] == file["ids"] == file["kept"] == QUESTIONS, file
        assert file["asked_again"] == file["missing"], "what is there isn't asked again, what isn't is"
        assert file["asked"] <= QUESTIONS + file["hit"] * (AT_A_TIME + 1), "a kill loses what was under way, no more"
        assert not file["beside"], file
    assert len(told["files"]) == -(-kills // A_FILE)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")
@pytest.mark.parametrize("starts", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_of_writers_that_start_together_one_asks(starts: int, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).parents[1] / "racing.py", tmp_path, str(starts), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == starts
    for start in told:
        assert start["rows"] == start["ids"] == start["kept"] == racing.QUESTIONS, start
        assert start["asked"] == [1] * racing.QUESTIONS, "nothing is asked twice"
        assert len(start["ended"]) == 3 and str(racing.QUESTIONS) in start["ended"]
        assert all(said == str(racing.QUESTIONS) or "Another process is writing" in said for said in start["ended"])
        assert not start["beside"]
