"""`kvsteer reproduce`: the notebooks on another model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..printing import say_line


def reproduce(
    model: str,
    out: Path,
    task: str | None = None,
    profile: Literal["quick", "full", "own"] | None = None,
    notebooks: tuple[str, ...] = (),
    parameters: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE")] = (),
    workers: int = 1,
) -> None:
    """Run the numbered notebooks on a model; write them, their HTML and figures, and `index.html`, which shows them
    all.

    Coefficients that suit one model mean nothing on another: a profile gives strengths in relative units, measured on
    the model first; --set CK=0.3 CV=6 sets them by hand. What a notebook says was found on the bundled model is left
    out. It can be stopped at any time: the same command goes on, and runs again what failed or ran with other values. A
    notebook that fails doesn't stop the others.

    Exit code 0: all of them ran to the end. 1: bad input, nothing was written. 2: a notebook failed (the output and the
    page say where).

    Args:
        model: "smollm2-135m", another name, a folder, a .gguf file or a hub id.
        out: the folder.
        task: what they evaluate on; by default that of the model's profile.
        profile: sizes and strengths: quick (on a CPU, about an hour for a model of 135 M parameters), full, or own (the
            notebooks' own, which suit the bundled models). By default own for a bundled model, quick for another.
        notebooks: numbers of those to run, say 00 05; all of them by default.
        parameters: values for variables of the notebooks' second cells; each goes to every notebook that has it. Lists
            and texts in quotes: 'DOSES=[1, 2]'.
        workers: notebooks that run at a time, each with a model of its own in memory.
    """
    import os
    import sys

    from ...reproduction.parameters import read_parameters
    from ...reproduction.reproduction import reproduce as run

    given = read_parameters(parameters)
    shown = not os.environ.get("TQDM_DISABLE")
    done = run(
        model,
        out,
        task=task,
        profile=profile,
        notebooks=notebooks,
        parameters=given,
        workers=workers,
        say=say_line,
        progress=shown,
    )
    say_line(
        f"{len(done.records) - len(done.failures)} of {len(done.records)} notebooks ran to the end; see {done.index}"
    )
    if done.failures:
        sys.exit(2)
