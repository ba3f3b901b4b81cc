"""`kvsteer audit`: the generations that the paper's authors released, scored again and tested."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ..printing import say_text


def audit(path: Annotated[Path, tyro.conf.Positional], out: Path = Path("audit")) -> None:
    """Score released generations again and test what they claim.

    Prints a page that begins with a summary. Every table is written as a CSV file, all of them together as
    `report.txt`, with figures. Nothing in the release is changed, no link in it is followed.

    Exit code 0: every file matches its own metrics, and no result was skipped. 1: bad input, nothing was written. 2: a
    file doesn't match, or could not be read or checked (the output says which); also a command line that can't be
    understood.

    Args:
        path: folder of the release, or its tar archive.
        out: folder for tables; figures go into `figures/` in it.
    """
    import sys

    from ..._util.files import write_atomically
    from ...figures.saving import save_figure
    from ...published.auditing import audit as audit_release
    from ...published.figures import plot_audit, seed_of
    from ...published.reporting import report

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the tables and figures (--out).")
    found = audit_release(path, progress=True)
    found.save(out)
    for name, figure in plot_audit(found).items():
        save_figure(figure, out / "figures" / name, seed=seed_of(name))
    write_atomically(
        out / "report.txt", lambda path: path.write_text(f"{report(found, full=True)}\n", encoding="utf-8")
    )
    say_text(report(found))
    if not found.complete:
        sys.exit(2)
