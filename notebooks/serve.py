"""Serve the explorer of chapter 11, and nothing else of it, to a browser on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import nbformat
import tyro

from kvsteer_lab.explorer.serving import serve

HERE = Path(__file__).resolve().parent
CHAPTER = HERE / "11_explorer.ipynb"


def explorer_alone(chapter: Path = CHAPTER) -> nbformat.NotebookNode:
    """The chapter's code up to the cell that shows the explorer.

    Raises:
        ValueError: no cell shows it.
    """
    notebook = nbformat.read(chapter, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next((i for i, cell in enumerate(code) if cell.source.splitlines()[-1:] == ["explorer"]), None)
    if last is None:
        raise ValueError(f"{chapter.name} has no cell that ends in `explorer`; there is nothing to serve.")
    notebook.cells = code[: last + 1]
    return notebook


def main(port: int = 8866, theme: Literal["light", "dark"] = "light", browser: bool = True) -> None:
    """Serve it until Ctrl+C. Only this machine is listened to, and only who has the printed address gets in.

    Args:
        port: where; the next free one if it is taken.
        theme: of the page.
        browser: whether it is opened in a browser.
    """
    os.environ.setdefault("KVSTEER_FIGURES", str(HERE.parent / "runs" / "figures"))
    serve(explorer_alone(), port, theme, browser)


if __name__ == "__main__":
    tyro.cli(main)
