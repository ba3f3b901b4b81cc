"""Behaviours on a model: steered by cache and by activations, tuned on dev, tested beside random vectors.

    python benchmarks/behaviours.py --model smollm2-135m --runs runs/behaviours

Chapter 16 reads what it writes to results/behaviours/. A run that was stopped goes on.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import kvsteer_lab as kv
from kvsteer_lab.behaviours import Sizes

RESULTS = Path(__file__).parent / "results" / "behaviours"


def main(
    model: str = "smollm2-135m",
    behaviours: tuple[str, ...] = ("french", "negative", "bullets", "pirate"),
    runs: Path = Path("runs/behaviours"),
    sizes: Sizes | None = None,
    out: Path = RESULTS,
) -> Path:
    """Run the study of every behaviour, and write their results to one folder.

    Args:
        model: its name, or a folder or hub id.
        behaviours: names of `kv.behaviours.NAMES`.
        runs: where unfinished runs are kept.
        sizes: how much is done.
        out: where the results go.
    """
    loaded = kv.load(model)
    studies = []
    for name in behaviours:
        studies.append(kv.behaviours.run_study(loaded, name, runs, sizes=sizes, progress=False))
        print(kv.readable(studies[-1].table).to_string(), flush=True)
        kv.behaviours.write_study(studies, out)
    return out


if __name__ == "__main__":
    tyro.cli(main)
