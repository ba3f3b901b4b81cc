"""A run that is killed at any moment resumes, in another process, and ends with the rows of an uninterrupted one."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from killing import CHUNK, QUESTIONS, evaluate

import kvsteer_lab as kv
from kvsteer_lab.evaluation.runs import Run


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), pytest.param(43, 1, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_rows(tiny, tmp_path, kills, seed):
    out = tmp_path / "run"
    command = [sys.executable, Path(__file__).parents[1] / "killing.py", out, str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [kill["killed"] for kill in told] == [True] * kills  # every one of them hit a process at work
    begun = Run.load(out)
    assert (
        not begun.complete and len(begun.finished) == told[-1]["finished"] and len(begun.chunks) == QUESTIONS // CHUNK
    )

    resumed = evaluate(tiny, out.with_suffix(".safetensors"), out)
    uninterrupted = evaluate(tiny, out.with_suffix(".safetensors"), tmp_path / "uninterrupted")
    assert resumed.complete and len(resumed.rows) == QUESTIONS * 5 * 2
    pd.testing.assert_frame_equal(resumed.rows, uninterrupted.rows)
    # another process did it in one go
    pd.testing.assert_frame_equal(resumed.rows, kv.Results.load(tmp_path / "timing").rows)
    pd.testing.assert_frame_equal(
        resumed.rows, evaluate(tiny, out.with_suffix(".safetensors"), None).rows, check_dtype=False
    )
    assert not list((out / "unfinished").glob(".0*"))  # what a kill left half written is gone
    assert resumed.of("steered").text.tolist() != resumed.of("baseline").text.tolist()
