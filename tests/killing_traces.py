"""Write traces, kill the process, go on, until all are there: `python killing_traces.py FOLDER KILLS SEED`. Run by
test_attack_traces.py, not a test itself.

Nothing here imports torch, as nothing does that writes traces, so that a process begins in no time. Every other kill
comes from outside at any moment, the others at a stage of writing a line. Prints one JSON line: the kinds of kills that
hit, and for each file how many times each question was asked and how many kills it took.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from chat_server import Server
from toy import Toy

from kvsteer_lab.tasks.traces.journal import Journal
from kvsteer_lab.tasks.traces.reading import Traces
from kvsteer_lab.tasks.traces.writing import write_traces

QUESTIONS, AT_A_TIME, A_FILE = 50, 3, 12
PAUSE = 0.01
STAGES = (
    "before the header",
    "in the header",
    "before a line",
    "in a line",
    "before it is on the disk",
    "after a line",
)


def serve(asked: Path) -> str:
    """A server in a process of its own, which notes the questions in a file: its address."""
    ends = os.pipe()
    if not os.fork():
        notes = os.open(asked, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def answer(prompt: str) -> str:
            number = re.findall(r"legs have (\d+)", prompt)[0]
            os.write(notes, f"{number}\n".encode())
            time.sleep(PAUSE)
            return f"Step 1: {number} animals have 4 legs each.\nThe answer is {4 * int(number)}."

        with Server(answer) as server:
            os.write(ends[1], server.url.encode())
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.1)
        os._exit(0)
    return os.read(ends[0], 200).decode()


def write(url: str, out: Path) -> Traces:
    return write_traces(
        Toy(), "stepwise", out, base_url=url, model="m", n=QUESTIONS, concurrency=AT_A_TIME, pause=0.001, progress=False
    )


def die_at(stage: str, after: int) -> None:
    """Let this process kill itself at a stage of writing, once so many lines are written."""
    count, append, fsync, replace = [0], Journal.append, os.fsync, os.replace

    def at(now: str) -> None:
        if now == stage and count[0] >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_append(journal: Journal, row: dict[str, object]) -> None:
        count[0] += 1
        at("before a line")
        if stage == "in a line" and count[0] >= after:
            journal._file.write(json.dumps(row).encode()[: random.randrange(1, 60)])
            at("in a line")
        append(journal, row)
        at("after a line")

    def dying_fsync(handle: int) -> None:
        at("before it is on the disk")
        fsync(handle)

    def dying_replace(source: str, target: str) -> None:
        if stage == "before the header":
            os.kill(os.getpid(), signal.SIGKILL)
        if stage == "in the header":
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    Journal.append, os.fsync, os.replace = dying_append, dying_fsync, dying_replace  # type: ignore[method-assign,assignment]


def kill(url: str, out: Path, number: int, rng: random.Random) -> tuple[bool, str]:
    """Begin or go on, and be killed: whether it was while it worked, and how."""
    outside, stage = number % 2 == 1, STAGES[(number // 2 + number // A_FILE) % len(STAGES)]
    if "header" in stage and out.exists():
        stage = "in a line"
    after, delay = rng.randrange(1, 5), rng.uniform(0, QUESTIONS / A_FILE / AT_A_TIME * PAUSE * 2)
    child = os.fork()
    if not child:
        random.seed(number)
        if not outside:
            die_at(stage, after)
        write(url, out)
        os._exit(0)
    if outside:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status), "from outside" if outside else stage


def main(folder: Path, kills: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["NO_PROXY"] = "127.0.0.1"
    rng, files, kinds, made = random.Random(seed), [], Counter[str](), 0
    while made < kills:
        out, asked = folder / f"{len(files)}.jsonl", folder / f"{len(files)}.asked"
        url = serve(asked)
        hit = 0
        for _ in range(min(A_FILE, kills - made)):
            killed, kind = kill(url, out, made, rng)
            made, hit = made + 1, hit + killed
            kinds[kind] += killed
            if len(_lines(out)) > 1:
                Traces.load(out)  # it can be read at any time
        time.sleep(5 * PAUSE)  # requests under way
        before = asked.read_text().split() if asked.exists() else []
        whole = {row["id"] for row in map(json.loads, _lines(out)[1:])}
        traces = write(url, out)
        now = asked.read_text().split()
        rows = list(map(json.loads, _lines(out)[1:]))
        files.append(
            {
                "hit": hit,
                "rows": len(rows),
                "ids": len({row["id"] for row in rows}),
                "kept": len(traces),
                "asked": len(now),
                "missing": QUESTIONS - len(whole),
                "asked_again": len(now) - len(before),
                "beside": sorted(p.name for p in folder.glob(f".{out.name}*") if not p.name.endswith(".lock")),
            }
        )
    print(json.dumps({"kinds": kinds, "files": files}))


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
