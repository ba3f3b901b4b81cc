"""`kvsteer explore`: the explorer in a browser tab, for any model and vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..printing import say_line


def explore(
    model: str = "tiny",
    vectors: Path | None = None,
    task: str = "tiny-arithmetic",
    style: str = "stepwise",
    n: int = 24,
    shots: int = 2,
    template: str | None = None,
    data_dir: Path | None = None,
    port: int = 8866,
    theme: Literal["light", "dark"] = "light",
    browser: bool = True,
) -> None:
    """Open the explorer in a browser tab, until Ctrl+C. Only this machine can see it.

    Args:
        model: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        vectors: a file with steering vectors; without one, they are extracted from the task's pairs first.
        task: whose questions are asked first.
        style: how the positive examples answer, where vectors are extracted.
        n: number of pairs that vectors are extracted from.
        shots: examples in each prompt of a pair.
        template: for a base model, how a question is written: "Question: {q}\\nAnswer:".
        data_dir: folder with a benchmark's files.
        port: where; the next free one if it is taken.
        theme: of the page.
        browser: whether it is opened in a browser.
    """
    import kvsteer_lab as kv

    from ...explorer.serving import serve, write_notebook

    if vectors is not None:
        kv.KVVectors.load(vectors)  # refused here, where there is a line to say so
    kv.tasks.get(task, data_dir)
    written = None if template is None else template.replace("\\n", "\n")
    notebook = write_notebook(
        model, vectors, task=task, style=style, n=n, shots=shots, template=written, data_dir=data_dir
    )
    say_line("The page is shown when the model is loaded; the first time on a large model that takes a while.")
    serve(notebook, port, theme, browser)
