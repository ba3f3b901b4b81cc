"""The methods of `kv.methods` at equal divergence on one model: numbers for chapter 15, no texts.

    python benchmarks/methods.py --model tiny --task tiny-arithmetic --style stepwise
    python benchmarks/methods.py --model smollm2-135m --controls 19 --n 6 --pairs 8 --max-new-tokens 16 \\
        --steps 8 --tolerance 0.05 --together 4 --only "mean difference" "keys only" "learned"

All methods are made from the same pairs, scaled until KL(steered || plain) along the baseline's replies is what is
asked for, and evaluated on the same questions, each beside random controls that are scaled to the same divergence.
Methods are done a few at a time, each time beside the first; what is in the file already isn't done again. A bank is
scaled by its weight in attention, and needs a wider search:

    python benchmarks/methods.py --model tiny --only "learned bank" --span 1024
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

import kvsteer_lab as kv

LEARNED = {"learned", "learned bank"}
RESULTS = Path(__file__).resolve().parent / "results" / "methods"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="tiny-arithmetic")
    parser.add_argument("--style", default="stepwise")
    parser.add_argument("--nats", type=float, default=0.5)
    parser.add_argument("--span", type=float, default=8.0)
    parser.add_argument("--tolerance", type=float, default=0.01, help="of the coefficient's logarithm")
    parser.add_argument("--controls", type=int, default=39)
    parser.add_argument("--n", type=int, default=12, help="questions of the test split")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40, help="of the learned delta and bank")
    parser.add_argument("--only", nargs="*", default=[], help="these methods, in this order; none: all")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--together", type=int, default=6, help="methods done at a time")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    model, task = kv.load(asked.model), kv.tasks.get(asked.task)
    path = asked.out / f"{asked.model}.parquet"
    done = pd.read_parquet(path) if path.is_file() else pd.DataFrame({"method": []})
    learned = bool(LEARNED & set(asked.only or LEARNED) - set(done.method))
    named = kv.analysis.steering_methods(
        model, task, asked.style, pairs=asked.pairs, learned=learned, steps=asked.steps
    )
    first = next(iter(named))
    waiting = [name for name in asked.only or named if name not in set(done.method)]
    print(f"{len(waiting)} methods to do", flush=True)
    while waiting:
        some, waiting = waiting[: asked.together], waiting[asked.together :]
        began = time.process_time()
        table = kv.analysis.match_divergence(
            model,
            task,
            {name: named[name] for name in dict.fromkeys([first, *some])},
            [asked.nats],
            span=asked.span,
            tolerance=asked.tolerance,
            controls=asked.controls,
            n=asked.n,
            split="test",
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
            progress=False,
        )
        cost = (time.process_time() - began) / len(table)
        settings = dict(style=asked.style, task=asked.task, pairs=asked.pairs, controls=asked.controls)
        settings |= dict(span=asked.span, tolerance=asked.tolerance, steps=asked.steps)
        settings |= dict(max_new_tokens=asked.max_new_tokens, cpu_s=cost)
        new = table[table.method.isin(some)].assign(**settings)
        done = pd.concat([done, new], ignore_index=True) if len(done) else new
        path.parent.mkdir(parents=True, exist_ok=True)
        done.to_parquet(path, index=False)
        print(f"{len(done)} methods, {cost:.1f} s of one core a method", flush=True)


if __name__ == "__main__":
    main()
