"""`kvsteer reproduce`: the notebooks on another model."""

from __future__ import annotations

from pathlib import Path


def reproduce(model: str, out: Path, task: str = "tiny-arithmetic", notebooks: tuple[str, ...] = ()) -> None:
    """Run the numbered notebooks on a model; write them, their HTML and figures, and `index.html`, which shows them all.

    It can be stopped at any time: the same command goes on, and runs again what failed. A notebook that fails doesn't stop the others.

    Exit code 0: all of them ran to the end. 1: bad input, nothing was written. 2: a notebook failed (the output and the page say where).

    Args:
        model: a hub id, a folder, or a bundled model.
        out: the folder.
        task: what they evaluate on.
        notebooks: numbers of those to run, say 00 05; all of them by default.
    """
    import os
    import sys

    from ..reproducing import reproduce as run

    done = run(model, out, task=task, notebooks=notebooks, say=lambda line: print(line, flush=True), progress=not os.environ.get("TQDM_DISABLE"))
    print(f"{len(done.records) - len(done.failures)} of {len(done.records)} notebooks ran to the end; see {done.index}")
    if done.failures:
        sys.exit(2)
