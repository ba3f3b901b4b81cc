"""HTML shown in notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from .text import guard_from_mathjax, visible

CELL = "text-align:left;vertical-align:top;max-width:24em;white-space:pre-wrap;"
"""The style of a table's cell that holds running text."""


@dataclass(frozen=True)
class Html:
    """Something to show in a notebook.

    Attributes:
        text: its HTML.

    >>> Html("<b>bold</b>")._repr_html_()
    '<b>bold</b>'
    """

    text: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.text


class TextTable(pd.DataFrame):
    """A table that notebooks show with its texts as they were written: dollars in them delimit no formula.

    >>> "<span>&#36;</span>2" in TextTable({"text": ["$2 and $3"]})._repr_html_()
    True
    """

    @property
    def _constructor(self) -> type[TextTable]:
        return TextTable

    def _repr_html_(self) -> str | None:
        shown = super()._repr_html_()
        return None if shown is None else guard_from_mathjax(visible(shown))


def table_html(table: pd.DataFrame) -> str:
    """A table as HTML, its texts as they were written.

    Args:
        table: any table.

    >>> "&lt;b&gt; <span>&#36;</span>2" in table_html(pd.DataFrame({"text": ["<b> $2"]}))
    True
    """
    return guard_from_mathjax(visible(table.to_html()))
