"""`kvsteer merge`: the shards of a run, joined."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro


def merge(folders: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path) -> None:
    """Join the folders of a run's shards; every chunk must be there, and chunks that are there twice must agree.

    Prints each missing question on a line of its own and ends with exit code 1 if the run is incomplete; then nothing is written.

    Args:
        folders: what "kvsteer evaluate --out" wrote, one a shard.
        out: folder of the whole run.
    """
    from ..merging import IncompleteRunError
    from ..merging import merge as join

    try:
        run = join(folders, out)
    except IncompleteRunError as error:
        print("missing questions:", *error.questions, sep="\n", file=sys.stderr)
        raise
    print(f"Wrote {run.path}: complete, {len(run.chunks)} chunks, {sum(map(len, run.chunks))} questions, {len(run.read())} rows.")
