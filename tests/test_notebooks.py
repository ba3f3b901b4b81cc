"""Every notebook is a chapter that was run from the top; nbval (`make test`) then compares what it shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_FUNCTION = 8
SAVED = re.compile(r'save_figure\(.*f"\{FIGURES\}/([^"]+)"')
STYLER_ID = re.compile(r'id="T_[0-9a-f]{5}')  # drawn anew in every run
PRIVATE_PATH = re.compile(r"(?<![\w./:])/(?:home|root|tmp|Users|private|work|opt)/\w")


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS, f"{FOLDER.name}/ holds no notebook"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, 4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_opens_with_a_title(notebook: Any) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")


def test_has_one_cell_of_parameters(notebook: Any) -> None:
    tagged = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert "KVSTEER_MODEL" in tagged[0].source, "the model must be chosen by the environment"


def test_was_run_from_the_top(notebook: Any) -> None:
    cells = code(notebook)
    assert all(cell.source.strip() for cell in cells), "there is an empty code cell"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"


def test_shows_no_error_no_stderr_no_private_path_and_no_random_id(notebook: Any) -> None:
    for cell in code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", f"{cell.id}: {output.get('evalue')}"
            assert output.get("name") != "stderr", f"{cell.id}: {output.text[:200]}"
            shown = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
            assert not any(PRIVATE_PATH.search(text) for text in shown), (
                f"{cell.id} shows a path of the machine it ran on"
            )
            assert not any(STYLER_ID.search(text) for text in shown), (
                f"{cell.id} shows pandas' random ids; show a plain table, or set its uuid"
            )


def test_shows_a_picture_or_a_table(notebook: Any) -> None:
    kinds = {kind for cell in code(notebook) for output in cell.outputs for kind in output.get("data", {})}
    assert kinds & {"image/png", "image/svg+xml", "text/html"}


def test_every_figure_is_saved_under_a_name_of_its_own_that_begins_with_the_notebook_s_number() -> None:
    names = []
    for path in NOTEBOOKS:
        cells = code(nbformat.read(path, 4))
        source = "\n".join(cell.source for cell in cells)
        own = SAVED.findall(source)
        names += own
        assert all(name.startswith(path.name[:3]) for name in own), f"{path.name} saves {own}"
        assert len(own) == source.count("save_figure("), f"{path.name}: a figure's path is FIGURES and a name"
        for cell in cells:
            drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
            assert not drawn or "save_figure(" in source, f"{path.name}: {cell.id} shows a figure that isn't saved"
            assert "kv.figures.plot_" not in cell.source or "save_figure(" in cell.source, (
                f"{path.name}: {cell.id} draws a figure that isn't saved"
            )
    assert len(names) == len(set(names))


def test_every_figure_that_is_saved_is_shown(notebook: Any) -> None:
    for cell in code(notebook):
        if "save_figure(" in cell.source:
            shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            assert len(shown) >= cell.source.count("save_figure("), f"{cell.id} saves a figure that a reader can't see"


def test_functions_are_short(notebook: Any) -> None:
    for cell in code(notebook):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines; it belongs in the library"


MOST_CODE_CELLS, MOST_WORDS = 12, 1100
"""A chapter is one question: what a reader takes in at one sitting."""


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem < "14"], ids=lambda path: path.stem)
def test_a_chapter_is_short_enough_for_one_sitting(path: Path) -> None:
    cells = nbformat.read(path, 4).cells
    assert len(code(nbformat.read(path, 4))) <= MOST_CODE_CELLS
    assert sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown") <= MOST_WORDS


MOST_CALLS = 3


def calls_of(cell: Any) -> int:
    """The statements of a cell that call a function of the library, or of pyplot: what a reader has to look up."""
    statements = ast.parse(TransformerManager().transform_cell(cell.source)).body
    return sum(any(_is_looked_up(node) for node in ast.walk(statement)) for statement in statements)


def _is_looked_up(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    while isinstance(called, ast.Attribute | ast.Subscript | ast.Call):
        called = called.func if isinstance(called, ast.Call) else called.value
    return isinstance(called, ast.Name) and called.id in ("kv", "plt")


def test_calls_are_counted_by_statement() -> None:
    looked_up = ["model = kv.load(kv.name())", "drawn = [plt.figure() for _ in model]", "kv.tasks.get(1).chat[0](2)"]
    others = ["import kvsteer_lab as kv", "x = 1", "print(model.n_layers)"]
    assert calls_of(nbformat.v4.new_code_cell("\n".join([*others, *looked_up]))) == 3


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem < "14"], ids=lambda path: path.stem)
def test_a_cell_is_at_most_three_calls(path: Path) -> None:
    cells = code(nbformat.read(path, 4))
    long = {number: calls_of(cell) for number, cell in enumerate(cells) if calls_of(cell) > MOST_CALLS}
    assert not long, f"code cells (counted from 0) with more than {MOST_CALLS} calls: {long}"


def test_bad_input_is_shown_in_tests_and_not_in_chapters() -> None:
    for path in NOTEBOOKS:
        if path.stem < "14":
            assert "## Bad input" not in path.read_text(), path.name


def test_the_chapters_that_others_name_are_there() -> None:
    for path in NOTEBOOKS:
        for target in re.findall(r"\]\(([^)#:]+\.(?:ipynb|md))\)", path.read_text()):
            assert (FOLDER / target).is_file(), f"{path.name} points to {target}"
