"""Start several writers of one file of traces at the same moment, again and again: `python racing.py FOLDER STARTS
WRITERS`. Run by test_attack_traces.py, not a test itself.

The writers are processes: forks of this one, which has no thread. Prints one JSON line: for each start, how each writer
ended, how often each question was asked, and what is in the file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from killing_traces import serve
from toy import Toy

from kvsteer_lab.tasks.traces.reading import Traces
from kvsteer_lab.tasks.traces.writing import write_traces

QUESTIONS = 8


def write(url: str, out: Path, n: int, at: float, told: int) -> None:
    """In a fork: wait for the moment, write, and say how it ended."""
    time.sleep(max(0.0, at - time.monotonic()))
    try:
        kept = write_traces(
            Toy(), "stepwise", out, base_url=url, model="m", n=n, concurrency=3, pause=0.001, progress=False
        )
        said = str(len(kept))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    os.write(told, f"{said}\n".encode())
    os._exit(0)


def main(folder: Path, starts: int, writers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["NO_PROXY"] = "127.0.0.1"
    told = []
    asked = folder / "asked"
    url = serve(asked)
    for start in range(starts):
        out, ends = folder / f"{start}.jsonl", os.pipe()
        asked.write_text("")
        if start % 2:  # one begins the file, then all go on with it
            if not (child := os.fork()):
                write(url, out, 2, 0, os.open(os.devnull, os.O_WRONLY))
            os.waitpid(child, 0)
        at = time.monotonic() + 0.03
        for _ in range(writers):
            if not os.fork():
                write(url, out, QUESTIONS, at, ends[1])
        for _ in range(writers):
            os.wait()
        os.close(ends[1])
        with os.fdopen(ends[0]) as file:
            ended = file.read().splitlines()
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()[1:]]
        told.append(
            {
                "ended": ended,
                "asked": sorted(Counter(asked.read_text().split()).values()),
                "rows": len(rows),
                "ids": len({row["id"] for row in rows}),
                "kept": len(Traces.load(out)),
                "beside": sorted(p.name for p in folder.glob(f".{out.name}*") if not p.name.endswith(".lock")),
            }
        )
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
