"""`kvsteer merge`: the shards of a run, joined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ..printing import say_error, say_line


def merge(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")], out: Path
) -> None:
    """Join the folders of a run's shards; every chunk must be there, and chunks that are there twice must agree.

    If the run is incomplete, each missing question is printed on a line of its own, nothing is written, and the exit
    code is 1.

    Args:
        folders: folders of shards, as written by "kvsteer evaluate --out DIR --shard i/N".
        out: folder of the whole run.
    """
    from ...evaluation.merging import IncompleteRunError
    from ...evaluation.merging import merge as join

    try:
        run = join(folders, out)
    except IncompleteRunError as error:
        say_error("missing questions:", *error.questions)
        raise
    say_line(
        f"Wrote {run.path}: complete, {len(run.chunks)} chunks, {sum(map(len, run.chunks))} questions,"
        f" {len(run.read())} rows."
    )
