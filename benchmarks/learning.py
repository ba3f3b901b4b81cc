"""What a learned delta costs: seconds of a core a step, memory, and how far it gets. Rows for chapter 15.

    python benchmarks/learning.py --model smollm2-135m --texts 8 --steps 4

One model a process, for memory is what the process grew to beyond what it held before learning.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import pandas as pd

import kvsteer_lab as kv

RESULTS = Path(__file__).resolve().parent / "results" / "methods" / "learning.csv"
CALM = {"How are you?": "I am fine.", "Name a colour.": "Blue."}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="tiny-arithmetic")
    parser.add_argument("--style", default="stepwise")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    model, task = kv.load(asked.model), kv.tasks.get(asked.task)
    questions = task.questions("extraction", asked.texts)
    chats, replies = [task.chat(q) for q in questions], [task.demonstrate(q, asked.style) for q in questions]
    kv.generate(model, chats[0], generation={"max_new_tokens": 2})  # what any first use takes
    before, began = _megabytes(), time.process_time()
    _, how = kv.methods.learned_delta(
        model, chats, replies, neutral=list(CALM), neutral_replies=list(CALM.values()), steps=asked.steps
    )
    spent, history = time.process_time() - began, how.history
    row = dict(
        model=asked.model,
        texts=asked.texts,
        neutral=len(CALM),
        steps=len(history),
        seconds_a_step=spent / len(history),
        megabytes=_megabytes() - before,
        held_out_first=history.held_out.iloc[0],
        held_out_best=history.held_out.min(),
        kl_last=history.kl.iloc[-1],
    )
    done = pd.read_csv(asked.out) if asked.out.is_file() else pd.DataFrame({"model": []})
    done = pd.concat([done[done.model != asked.model], pd.DataFrame([row])], ignore_index=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done.to_csv(asked.out, index=False)
    print(done.to_string())


def _megabytes() -> float:
    """The most memory that this process has held so far (Linux counts in kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
