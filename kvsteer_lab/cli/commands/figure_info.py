"""`kvsteer figure-info`: what a saved figure says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ..printing import say_line


def figure_info(file: Annotated[Path, tyro.conf.Positional]) -> None:
    """Read the stamp of a figure: model, fingerprint, seed, version, and whether the CSV beside it holds its data.

    Exit code 0: a stamped figure. 1: no such figure. 2: the CSV beside it holds other data than the figure shows.

    Args:
        file: a .pdf, .svg or .png that `kv.save_figure` wrote.
    """
    import hashlib
    import sys

    from ...figures.stamp import read_stamp

    stamp = read_stamp(file)
    say_line(f"figure: {stamp.figure}")
    for name, fingerprint in stamp.models:
        say_line(f"model: {name}, fingerprint {fingerprint}")
    if not stamp.models:
        say_line("model: none")
    say_line(f"seed: {'none' if stamp.seed is None else stamp.seed}")
    say_line(f"version: kvsteer_lab {stamp.version}")
    table = file.with_suffix(".csv")
    if not table.is_file():
        say_line(f"data: {stamp.csv_rows} rows; {table.name} is not beside it")
    elif hashlib.sha256(table.read_bytes()).hexdigest() == stamp.csv_sha256:
        say_line(f"data: {stamp.csv_rows} rows in {table.name}, those that it was drawn from")
    else:
        say_line(f"data: {table.name} is not what it was drawn from ({stamp.csv_rows} rows, sha256 {stamp.csv_sha256})")
        sys.exit(2)
