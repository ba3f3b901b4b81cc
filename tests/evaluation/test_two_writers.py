"""Several processes in one folder: each chunk is done by one of them, and a dead one's claim is void."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.evaluation.identity import RunIdentity
from kvsteer_lab.evaluation.runs import Run

SCRIPT = """
import os, pathlib, signal, sys, time
import pandas as pd
from kvsteer_lab.evaluation.identity import RunIdentity
from kvsteer_lab.evaluation.runs import Run

folder, writers, dies = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "die"
questions = [str(i) for i in range(24)]
at = time.monotonic() + 0.1


def work(name, size):
    chunks = tuple(tuple(questions[i : i + size]) for i in range(0, 24, size))
    time.sleep(max(0, at - time.monotonic()))
    run = Run(folder, RunIdentity({"a": 1}), chunks, ("m",)).begin()
    for chunk in run.missing():
        with run.claim(chunk) as mine:
            if mine and not run.file(chunk).is_file():
                if dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.002)
                rows = {"question": run.chunks[chunk], "intervention": "m", "sample": 0, "text": name}
                run.write(chunk, pd.DataFrame(rows))
                os.write(1, f"{chunk} ".encode())


children = []
for i in range(writers):  # forks, so that imports are paid for once
    children.append(os.fork())
    if not children[-1]:
        work(f"w{i}", 2 + i % 2)  # of different chunk sizes
        os._exit(0)
print("ended", *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def run_writers(folder: Path, writers: int, how: str = "live") -> tuple[list[str], list[str]]:
    """The chunks that processes did, and their exit codes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(writers), how], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    chunks, _, codes = done.stdout.partition("ended")
    return chunks.split(), codes.split()


@pytest.mark.parametrize("writers", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_each_chunk_is_done_once(tmp_path: Path, writers: int) -> None:
    chunks, codes = run_writers(tmp_path / "run", writers)
    assert codes == ["0"] * writers, chunks
    run = Run.load(tmp_path / "run")
    assert run.complete and run.read().question.tolist() == [str(i) for i in range(24)]
    assert Counter(chunks) == Counter(map(str, range(len(run.chunks))))
    assert {path.suffix for path in (tmp_path / "run" / "unfinished").iterdir()} == {".lock"}


def test_the_claim_of_a_killed_process_is_void(tmp_path: Path) -> None:
    assert run_writers(tmp_path / "run", 1, "die") == ([], ["-9"])
    with Run.load(tmp_path / "run").claim(0) as mine:
        assert mine


MERGER = """
import os, pathlib, random, signal, sys, time
import kvsteer_lab as kv
from kvsteer_lab.evaluation.merging import merge

folder, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rng, seen = random.Random(0), set()
for _ in range(kills):
    child = os.fork()
    if not child:
        merge([folder / "1", folder / "2"], folder / "whole")
        os._exit(0)
    time.sleep(0.15 * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(len(list((folder / "whole" / "rows").glob("*.parquet"))) if (folder / "whole").exists() else -1)
print(*sorted(seen))
"""


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_merge_that_is_killed_goes_on(tmp_path: Path, kills: int) -> None:
    chunks = tuple((str(i),) for i in range(40))
    for part in (0, 1):
        run = Run(tmp_path / str(part + 1), RunIdentity({"a": 1}), chunks, ("m",)).begin()
        for chunk in run.missing((part + 1, 2)):
            run.write(chunk, pd.DataFrame({"question": chunks[chunk], "intervention": "m", "sample": 0, "text": "x"}))
    command = [sys.executable, "-c", MERGER, str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    assert whole.complete and whole.read().question.tolist() == [str(i) for i in range(40)]
    assert not [path for path in (tmp_path / "whole" / "unfinished").iterdir() if path.suffix != ".lock"]


def test_a_claimed_chunk_is_left_to_its_holder(tmp_path: Path, tiny: kv.Model) -> None:
    task, out = kv.tasks.get("tiny-arithmetic"), tmp_path / "run"

    def evaluate() -> kv.Results:
        return kv.evaluate(tiny, task, [], n=4, generation={"max_new_tokens": 2}, out=out, chunk_size=1, progress=False)

    kv.evaluate(
        tiny, task, [], n=4, generation={"max_new_tokens": 2}, out=out, chunk_size=1, shard="1/4", progress=False
    )
    with Run.load(out).claim(2), pytest.warns(UserWarning, match="Another process is generating 1 of the chunks in"):
        thread = run_in_a_thread(evaluate)
    assert not thread.complete and thread.rows.question.nunique() == 3
    assert evaluate().complete


def run_in_a_thread(call: object) -> kv.Results:
    """What a call gives in another thread, for which a lock of this one is another's."""
    found: list[kv.Results] = []
    thread = threading.Thread(target=lambda: found.append(call()))  # type: ignore[operator]
    thread.start()
    thread.join()
    return found[0]


def test_a_folder_that_is_being_changed_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvsteer_lab.evaluation.runs._WAIT", 0.2)
    run = Run(tmp_path / "run", RunIdentity({"a": 1}), (("q",),), ("m",)).begin()
    refused: list[str] = []

    def merge() -> None:
        try:
            with run.lock():
                pass
        except OSError as error:
            refused.append(str(error))

    with run.lock():
        thread = threading.Thread(target=merge)
        start = time.monotonic()
        thread.start()
        thread.join()
    assert refused and "Another process is writing to" in refused[0] and time.monotonic() - start < 5
