"""`kvsteer demo`: the main job, end to end, on the bundled model."""

from __future__ import annotations

from pathlib import Path


def demo(out: Path = Path("kvsteer-demo"), n: int = 100, controls: int = 40) -> None:
    """Run the main job end to end on the bundled model and say where the results are.

    Args:
        out: folder for vectors, results and figure.
        n: test questions.
        controls: random vectors to compare with.
    """
    from ..demo import run_demo

    run_demo(out, n=n, controls=controls)
