"""`kvsteer demo`: the main job, end to end, on the bundled model or on a pretrained one."""

from __future__ import annotations

from pathlib import Path


def demo(
    out: Path = Path("kvsteer-demo"), model: str = "tiny", n: int | None = None, controls: int | None = None
) -> None:
    """Run the main job end to end and say where the results are.

    On a bundled model: whether steering makes it reason and answer right. On any other: whether vectors of five styles
    decide how it opens its replies, and random vectors of the same size don't. That takes a few minutes on a CPU with
    smollm2-135m, which is fetched once.

    Args:
        out: folder for vectors, results and figure.
        model: a bundled model, a named one such as smollm2-135m, a folder, or a hub id.
        n: test questions; by default 100 on a bundled model, 16 on another.
        controls: random vectors to compare with; by default 40 on a bundled model, 20 for each style on another.
    """
    from ...models.loading import BUNDLED
    from ..demo import run_demo
    from ..style_demo import run_style_demo

    if model in BUNDLED:
        run_demo(out, model=model, n=100 if n is None else n, controls=40 if controls is None else controls)
    else:
        run_style_demo(out, model=model, n=16 if n is None else n, controls=20 if controls is None else controls)
