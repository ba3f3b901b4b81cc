"""The table of attacks names tests that exist, and the page that shows it has all its rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attacks import ROWS, TESTS, Row, command

PAGE = Path(__file__).parents[1] / "docs" / "attacks.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.attack)
def test_a_row_names_slow_tests(row: Row) -> None:
    for test in row.tests:
        path, _, name = re.sub(r"\[.*", "", test).partition("::")
        code = (TESTS / path).read_text(encoding="utf-8")
        assert "pytest.mark.slow" in code and f"def {name or 'test_'}" in code, test
    assert command(row)[1:4] == ["-m", "pytest", "-q"]


def test_the_page_has_every_row() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [row.attack for row in ROWS if f"| {row.attack} |" not in page] == []
    assert "python tests/attacks.py" in page
