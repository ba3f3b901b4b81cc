"""Tables that the committed notebooks show: one format a column, and none wider than the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import kvsteer_lab as kv

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
WIDEST = 104
"""Characters of a row, two between columns. The site's text column is 58em less 6em, or 832 px (`docs/_static`), and a
character of a table takes 8 px of it on average, margins of cells included (measured in Chromium on the chapters' own
tables). JupyterLab's smaller type takes 7.3 px, so 760."""
WRAPPED = 50
"""Texts wrap at spaces; a cell of them is as wide as pandas shows it at most, where nothing else is asked for."""
Row = list[tuple[int, int, str]]
"""Cells: how many columns and rows each spans, and what it says."""


class Tables(HTMLParser):
    """The tables of pandas in a text, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[Row]] = []
        self.inside = self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "table":
            self.inside = "dataframe" in (told.get("class") or "").split()
            self.tables += [[]] * self.inside
        elif self.inside and tag == "tr":
            self.tables[-1] = [*self.tables[-1], []]
        elif self.inside and tag in ("th", "td"):
            self.in_cell = True
            self.tables[-1][-1].append((int(told.get("colspan") or 1), int(told.get("rowspan") or 1), ""))

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            columns, rows, text = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (columns, rows, text + data)

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("th", "td")
        self.inside = self.inside and tag != "table"


def columns_of(table: list[Row]) -> list[list[str]]:
    """The cells of each column from top to bottom; those that go over several columns are blank."""
    taken: dict[tuple[int, int], str] = {}
    for y, row in enumerate(table):
        x = 0
        for across, down, text in row:
            while (y, x) in taken:
                x += 1
            taken |= {(y + dy, x + dx): "" for dy in range(down) for dx in range(across)}
            taken[y, x] = text if across == 1 else ""
    return [[taken.get((y, x), "") for y in range(len(table))] for x in range(1 + max(x for _, x in taken))]


def width_of(table: list[Row]) -> int:
    """Characters of the widest row."""
    columns = columns_of(table)
    return sum(max(min(len(cell), WRAPPED) for cell in column) for column in columns) + 2 * (len(columns) - 1)


def formats_of(column: list[str]) -> set[str]:
    """In which ways a column writes numbers: with how many decimals, or with exponents; `<0.001` is a number, too."""
    numbers = [re.fullmatch(r"<?-?\d+(?:\.(\d+))?(e[+-]\d+)?", cell) for cell in column]
    return {f"{len(number[1] or '')} decimals{', exponent' * bool(number[2])}" for number in numbers if number}


def tables_in(path: Path) -> Iterator[tuple[str, list[Row]]]:
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            for table in Tables(output.get("data", {}).get("text/html", "")).tables:
                yield cell.id, table


def shown(table: pd.DataFrame) -> list[Row]:
    return Tables(table._repr_html_()).tables[0]  # type: ignore[operator]


def test_mixed_formats_and_wide_tables_are_seen() -> None:
    mixed = pd.DataFrame({"a": ["0.5", "0.125"], "b": ["1e-06", "0.125"], "p": ["<0.001", "0.040"], "n": ["3", ""]})
    assert [len(formats_of(column)) for column in columns_of(shown(mixed))] == [1, 2, 2, 1, 1]
    assert width_of(shown(mixed)) == 1 + 5 + 5 + 6 + 1 + 2 * 4
    paired = pd.concat({"first": mixed, "a longer word": mixed}, axis=1)
    assert len(columns_of(shown(paired))) == 9 and columns_of(shown(paired))[5][1:] == ["a", "0.5", "0.125"]
    with pd.option_context("display.max_colwidth", None):
        assert width_of(shown(pd.DataFrame({"a": ["x " * 99]}))) == 1 + 2 + WRAPPED


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_of_a_column_share_one_format(path: Path) -> None:
    mixed = [
        f"{cell}, {column[0] or column[1]}: {sorted(formats_of(column))}"
        for cell, table in tables_in(path)
        for column in columns_of(table)
        if len(formats_of(column[1:])) > 1
    ]
    assert not mixed, f"use kv.readable: {mixed}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_table_is_wider_than_the_page(path: Path) -> None:
    wide = {cell: width_of(table) for cell, table in tables_in(path) if width_of(table) > WIDEST}
    assert not wide, f"more than {WIDEST} characters; leave out columns, shorten their names or make two tables: {wide}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_table_is_cut(path: Path) -> None:
    cut = {cell for cell, table in tables_in(path) for column in columns_of(table) if "..." in column}
    assert not cut, "rows or columns are left out where pandas writes '...'"


def test_what_results_show_has_one_format() -> None:
    rows = [
        dict(question=f"q{q}", intervention=label, sample=0, control_of=None, control_kind=None, text="", forced="")
        | dict(closing="", finish_reason="eos", tokens=3 + q, gold="1", read_answer="1", choice_forced=False)
        | dict(correct=label == "x" or q == 0, style="other", reasoned=False, repetition=0.0, by_main="1")
        for q in range(9)
        for label in ("baseline", "x")
    ]
    table = Tables(kv.Results(pd.DataFrame(rows), {"task": "t"})._repr_html_()).tables[0]
    assert "0.11" in columns_of(table)[2] and all(len(formats_of(column)) <= 1 for column in columns_of(table))
