"""The numbered notebooks: beside the package in a checkout, inside it where it was installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..evaluation.identity import hash_of


@dataclass(frozen=True)
class Chapter:
    """A numbered notebook.

    Attributes:
        path: where it lies; it is run in that folder, whose neighbours it reads.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.name.partition("_")[0]

    @cached_property
    def notebook(self) -> NotebookNode:
        return nbformat.read(self.path, 4)

    @property
    def title(self) -> str:
        """The first heading, without the number that some begin with."""
        heading = self.notebook.cells[0].source.splitlines()[0].lstrip("# ")
        return re.sub(r"^\d\d[a-z]?\W+", "", heading)

    @property
    def parameters(self) -> frozenset[str]:
        """The names that its cell of parameters gives values to."""
        tagged = [cell.source for cell in self.notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assigned = re.findall(r"^(\w+(?:, \w+)*) = ", "\n".join(tagged), re.MULTILINE)
        return frozenset(name for names in assigned for name in names.split(", "))

    @property
    def source(self) -> str:
        """The hash of its cells, whatever their outputs are."""
        return hash_of([[cell.cell_type, cell.source] for cell in self.notebook.cells])


def folder() -> Path:
    """Where the notebooks lie."""
    package = Path(str(files("kvsteer_lab")))
    inside = package / "chapters" / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def find_chapters(numbers: Sequence[str] = ()) -> list[Chapter]:
    """The chapters in their order, or those of them that are asked for by number or name.

    Raises:
        ValueError: no such chapter.
        FileNotFoundError: the package was installed without them.

    >>> find_chapters(["00"])[0].number
    '00'
    """
    every = [Chapter(path) for path in sorted(folder().glob("[0-9][0-9]*_*.ipynb"))]
    if not every:
        raise FileNotFoundError(
            "The notebooks were not installed with the package; install it from its wheel, or run this in a checkout."
        )
    for asked in numbers:
        if not any(asked in (chapter.number, chapter.name) for chapter in every):
            raise ValueError(
                f"There is no notebook {asked!r}; there are {', '.join(chapter.number for chapter in every)}."
            )
    return [chapter for chapter in every if not numbers or chapter.number in numbers or chapter.name in numbers]
