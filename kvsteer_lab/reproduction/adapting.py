"""A chapter for another model: its own parameters, and none of the sentences that say what was found on the bundled
one.

Cells tagged `finding` say what was found with the chapter's own settings on the bundled model. They stand only under
those. Cells tagged `comparison` run a second model; where none is named they are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import nbformat
from nbformat import NotebookNode

from .chapters import Chapter

BUNDLED = {"MODEL": "tiny", "TASK": "tiny-arithmetic"}
"""What the chapters' findings were found on."""
COMPARISONS = ("CONTROL", "OTHER")
"""The parameters that name a second model."""


def adapt(chapter: Chapter, parameters: Mapping[str, Any], name: str) -> NotebookNode:
    """The chapter's notebook, ready to be run with these parameters.

    Args:
        chapter: which one.
        parameters: values of those of its parameters that are set.
        name: what the model is called.
    """
    notebook = copy.deepcopy(chapter.notebook)
    if not says_what_it_found(chapter, parameters):
        drop = {"finding"} if _compares(chapter, parameters) else {"finding", "comparison"}
        left_out = any(drop & _tags(cell) for cell in notebook.cells)
        notebook.cells = [cell for cell in notebook.cells if not drop & _tags(cell)]
        if left_out:
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(_notice(name, parameters)))
    place = next((i for i, cell in enumerate(notebook.cells) if "parameters" in _tags(cell)), None)
    if parameters and place is not None:
        # not by papermill, which warns of every name that it doesn't find at the beginning of a line
        lines = ["# Set for this run", *(f"{key} = {value!r}" for key, value in parameters.items())]
        cell = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(place + 1, cell)
    return notebook


def says_what_it_found(chapter: Chapter, parameters: Mapping[str, Any]) -> bool:
    """Whether the chapter runs as it was written: on the bundled model, with its own settings.

    Args:
        chapter: which one.
        parameters: values of those of its parameters that are set.
    """
    return all(BUNDLED.get(name) == value for name, value in parameters.items())


def _compares(chapter: Chapter, parameters: Mapping[str, Any]) -> bool:
    """A bundled model is compared with the other one; any other with the one that is named."""
    named = [parameters[name] for name in COMPARISONS if name in parameters]
    return any(named) if named else str(parameters.get("MODEL", "")).startswith("tiny")


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _notice(name: str, parameters: Mapping[str, Any]) -> str:
    shown = str(name).replace("`", "'")
    task = f" on `{parameters['TASK']}`" if "TASK" in parameters else ""
    return (
        f"**This run: `{shown}`{task}.** Numbers and figures are of this run. What the chapter found on the bundled"
        " model with its own settings doesn't carry over and is left out."
    )
