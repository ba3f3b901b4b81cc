"""The explorer in a browser tab of its own, without JupyterLab: a notebook of one cell, served by Voila."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import nbformat

_CELL = """\
import kvsteer_lab as kv

model = kv.load({model!r}, template={template})
task = kv.tasks.get({task!r}, {data_dir!r})
pairs, vectors = None, {vectors}
if vectors is None:
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style={style!r}, n={n}, shots={shots})
    vectors = kv.extract(model, pairs, progress=False)
explorer = kv.explore(model, vectors, task=task, pairs=pairs)
explorer
"""


def write_notebook(
    model: str,
    vectors: Path | None = None,
    *,
    task: str = "tiny-arithmetic",
    style: str = "stepwise",
    n: int = 24,
    shots: int = 2,
    template: str | None = None,
    data_dir: Path | None = None,
) -> nbformat.NotebookNode:
    """A notebook whose one cell opens the explorer.

    Args:
        model: what `kv.load` takes, as a string.
        vectors: a file with steering vectors; without one, vectors are extracted from the task's pairs.
        task: whose questions are asked first.
        style, n, shots: of the pairs that vectors are extracted from where no file is given: how the positive examples
            answer, the number of pairs, and of examples in each prompt.
        template: for a base model, how a question is written, with {q} in its place.
        data_dir: folder with a benchmark's files.

    >>> write_notebook("tiny").cells[0].source.splitlines()[2]
    "model = kv.load('tiny', template=None)"
    """
    source = _CELL.format(
        model=model,
        template="None" if template is None else f"kv.PlainTemplate({template!r})",
        task=task,
        data_dir=None if data_dir is None else str(data_dir.resolve()),
        vectors="None" if vectors is None else f"kv.KVVectors.load({str(vectors.resolve())!r})",
        style=style,
        n=n,
        shots=shots,
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.rstrip())])
    notebook.metadata["title"] = f"{model}: the explorer"  # of the browser's tab
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return notebook


def serve(notebook: nbformat.NotebookNode, port: int, theme: Literal["light", "dark"], browser: bool) -> None:
    """Serve a notebook until Ctrl+C. Only this machine is listened to, and only who has the printed address gets in.

    Args:
        notebook: run anew for everyone who opens the address.
        port: where; the next free one if it is taken.
        theme: of the page.
        browser: whether it is opened in a browser.

    Raises:
        ValueError: Voila isn't installed.
    """
    if find_spec("voila") is None:
        raise ValueError("The explorer in a browser tab is served by Voila; install it with: pip install voila")
    from voila.app import Voila

    os.environ.setdefault("TQDM_DISABLE", "1")  # no bars above it
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explorer.ipynb"
        nbformat.write(notebook, path)
        arguments = [
            str(path),
            "--Voila.ip=127.0.0.1",
            f"--port={port}",
            f"--theme={theme}",
            "--Voila.auto_token=True",
            "--show_tracebacks=True",
        ]
        Voila.launch_instance([*arguments, *([] if browser else ["--no-browser"])])
