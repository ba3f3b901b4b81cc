"""Begin a run, kill its process, begin it again: `python killing.py OUT KILLS SEED`. Run by test_kill.py, not a test
itself.

Every process that computes is a fork of this one, so that imports are paid for once and the moments are those of the
work. They
are drawn over the whole run: every other kill comes from outside at any moment, the others at a stage of writing a
file, which takes too little time to be hit by chance. Prints one JSON line: for each kill, its kind and how many chunks
were finished.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

import kvsteer_lab as kv

QUESTIONS, CHUNK = 40, 2
STAGES = ("half written", "written, not in place", "in place", "nothing written")


def evaluate(model: kv.Model, vectors: Path, out: Path | None) -> kv.Results:
    """A small run of everything that rows can depend on: steering, prompts, a control, sampling."""
    steering = kv.CacheSteering(kv.KVVectors.load(vectors), ck=0, cv=2, name="steered")
    methods = [steering, kv.CoTPrompt(), *kv.random_controls(steering, 1)]
    generation = {"max_new_tokens": 24, "do_sample": True}
    task, chunk = kv.tasks.get("tiny-arithmetic"), None if out is None else CHUNK
    return kv.evaluate(
        model,
        task,
        methods,
        n=QUESTIONS,
        split="dev",
        samples=2,
        generation=generation,
        out=out,
        chunk_size=chunk,
        progress=False,
    )


def kill_from_outside(child: int, rows: Path, after: int, delay: float) -> None:
    """Kill a process some time after it has finished so many chunks."""
    while len(list(rows.glob("*"))) < after and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)


def die_while_writing(rows: Path, after: int, stage: str) -> None:
    """Let this process kill itself at a stage of writing the next file once it has finished so many chunks."""
    write, replace = pq.write_table, os.replace

    def at(now: str) -> None:
        if now == stage and len(list(rows.glob("*"))) >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_write(table: Any, path: Path, **options: Any) -> None:
        at("nothing written")
        write(table, path, **options)
        if stage == "half written":
            os.truncate(path, path.stat().st_size // 2)
            at(stage)
            write(table, path, **options)

    def dying_replace(source: Path, target: Path) -> None:
        at("written, not in place")
        replace(source, target)
        at("in place")

    pq.write_table, os.replace = dying_write, dying_replace


def main(out: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    model, vectors = kv.load("tiny"), out.with_suffix(".safetensors")
    task = kv.tasks.get("tiny-arithmetic")
    kv.extract(
        model, kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=8, shots=2, seed=0), progress=False
    ).save(vectors)
    start = time.monotonic()
    evaluate(model, vectors, out.with_name("timing"))
    a_chunk = (time.monotonic() - start) / (QUESTIONS // CHUNK)
    rng = random.Random(seed)
    told = []
    for number, share in enumerate(sorted(rng.uniform(0, 0.8) for _ in range(kills))):
        after, delay, stage = (
            int(share * (QUESTIONS // CHUNK)),
            rng.random() * a_chunk,
            STAGES[number // 2 % len(STAGES)],
        )
        outside = number % 2 == 0
        child = os.fork()
        if not child:
            if not outside:
                die_while_writing(out / "rows", after, stage)
            evaluate(model, vectors, out)
            os._exit(0)
        if outside:
            kill_from_outside(child, out / "rows", after, delay)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        told.append(
            {
                "killed": killed,
                "kind": "from outside" if outside else stage,
                "finished": len(list((out / "rows").glob("*"))),
            }
        )
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
