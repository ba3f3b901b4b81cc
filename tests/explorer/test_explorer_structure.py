"""The explorer's parts import only what they may: work computes and shows nothing, views show and compute nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvsteer_lab

ROOT = Path(kvsteer_lab.__file__).parent
EXPLORER = ROOT / "explorer"
WIDGETS = {"ipywidgets", "anywidget", "traitlets"}


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, by its absolute name."""
    package = ("kvsteer_lab", *file.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)


def files(*parts: str) -> list[Path]:
    return sorted(EXPLORER.joinpath(*parts).rglob("*.py"))


def test_the_names_of_imported_modules_are_found() -> None:
    found = set(imported(EXPLORER / "views" / "markup.py"))
    assert {"kvsteer_lab._util.text", "kvsteer_lab.explorer.results.sweep"} <= found


@pytest.mark.parametrize("file", files("views"), ids=lambda file: file.stem)
def test_a_view_takes_plain_values_and_callbacks(file: Path) -> None:
    allowed = (
        "_util.terms",
        "_util.text",
        "explorer.results",
        "explorer.state",
        "explorer.threads",
        "explorer.views",
        "figures.explorer",
        "figures.geometry",
    )
    ours = {name.removeprefix("kvsteer_lab.") for name in imported(file) if name.startswith("kvsteer_lab.")}
    wrong = {name for name in ours if not any(name == own or name.startswith(f"{own}.") for own in allowed)}
    assert not wrong - {"explorer.views", "explorer"}
    assert not {"torch", "transformers", "pandas", "sklearn"} & {name.partition(".")[0] for name in imported(file)}


@pytest.mark.parametrize(
    "file", [*files("work"), *files("results"), *EXPLORER.glob("[stw]*.py")], ids=lambda file: file.stem
)
def test_work_and_its_results_know_no_widgets(file: Path) -> None:
    found = set(imported(file))
    assert not WIDGETS & {name.partition(".")[0] for name in found}
    assert not [
        name for name in found if name.startswith(("kvsteer_lab.explorer.views", "kvsteer_lab.explorer.explorer"))
    ]


@pytest.mark.parametrize("file", files("results"), ids=lambda file: file.stem)
def test_results_are_made_elsewhere(file: Path) -> None:
    assert not [
        name for name in imported(file) if name.startswith(("kvsteer_lab.explorer.work", "kvsteer_lab.analysis"))
    ]


def test_one_file_deals_with_threads() -> None:
    assert [file.name for file in files() if "threading" in imported(file)] == ["threads.py"]


def test_the_page_does_not_know_the_explorer() -> None:
    assert not [file.name for file in files("views") if "kvsteer_lab.explorer.explorer" in imported(file)]
