"""A chapter on another model says nothing that was found on the bundled one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from random_models import build, tokenizer

import kvsteer_lab as kv
from kvsteer_lab.reproduction.adapting import adapt, says_what_it_found
from kvsteer_lab.reproduction.chapters import Chapter, find_chapters
from kvsteer_lab.reproduction.profile import read_profile
from kvsteer_lab.reproduction.reproduction import reproduce
from kvsteer_lab.reproduction.sizing import Units, parameters_for

NUMBERED = [
    chapter for chapter in find_chapters() if chapter.number not in ("14", "16", "17")
]  # theirs are stored results
UNITS = Units(keys=0.5, values=0.4, n_layers=30)
A_RESULT = re.compile(
    r"\bforty\b|\bthirty\b|\bsixty\b|here (layer|head)|nothing changes|no reply|every question|all replies"
    r"|in the invented tree|`tiny|no random vector|layer [123] alone|head \d|[Oo]n the bundled model\.",
    re.IGNORECASE,
)
"""Words in which findings are told. Not every finding has one; a cell that has one is a finding, or looks like one."""


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def sentences(chapter: Chapter) -> set[str]:
    """What the chapter says that it found on the bundled model."""
    found = " ".join(cell.source for cell in chapter.notebook.cells if "finding" in tags(cell))
    return {sentence for sentence in re.split(r"(?<=[.:?!])\s+", found) if len(sentence) > 25}


@pytest.fixture(params=NUMBERED, ids=lambda chapter: chapter.number)
def chapter(request: pytest.FixtureRequest) -> Chapter:
    return request.param


def test_findings_stand_in_cells_of_their_own_that_say_on_what_they_were_found(chapter):
    for cell in chapter.notebook.cells:
        if cell.cell_type != "markdown":
            continue
        if "finding" in tags(cell):
            assert "On the bundled model" in cell.source or "the invented tree" in cell.source, cell.id
        elif cell.id != "c00":
            found = A_RESULT.search(cell.source)
            assert found is None, f"{cell.id} says {found.group()!r}; is it a finding?"


def test_with_its_own_settings_on_the_bundled_model_a_chapter_is_what_it_is(chapter):
    given = {
        name: value for name, value in (("MODEL", "tiny"), ("TASK", "tiny-arithmetic")) if name in chapter.parameters
    }
    assert says_what_it_found(chapter, given)
    made = [cell.source for cell in adapt(chapter, given, "tiny").cells if "injected-parameters" not in tags(cell)]
    assert made == [cell.source for cell in chapter.notebook.cells]


@pytest.mark.parametrize("given", [{"MODEL": "other"}, {"MODEL": "tiny", "CV": 6}, {"TASK": "gsm8k"}])
def test_on_another_model_or_with_other_settings_findings_are_gone(chapter, given):
    if chapter.number == "10":
        return  # no model is loaded: what it finds in its invented tree stays true
    told = "\n".join(cell.source for cell in adapt(chapter, given, "other").cells)
    assert not [sentence for sentence in sentences(chapter) if sentence in told]
    assert not any("finding" in tags(cell) for cell in adapt(chapter, given, "other").cells)


def test_sections_on_a_second_model_run_only_where_one_is_named():
    (where,) = find_chapters(["09a"])

    def compares(**given: object) -> bool:
        return any("comparison" in tags(cell) for cell in adapt(where, given, "x").cells)

    assert compares() and compares(MODEL="tiny-control") and compares(MODEL="x", CONTROL="y")
    assert not compares(MODEL="x") and not compares(MODEL="x", CONTROL=None)


def test_parameters_come_behind_the_chapter_s_own_and_the_notice_behind_the_title():
    (first,) = find_chapters(["00"])
    made = adapt(first, {"MODEL": "a `model`", "TASK": "gsm8k", "CV": 1.5, "REPLY": {"max_new_tokens": 4}}, "a `model`")
    assert made.cells[1].source.startswith("**This run: `a 'model'` on `gsm8k`.**")
    place = next(i for i, cell in enumerate(made.cells) if "injected-parameters" in tags(cell))
    assert "parameters" in tags(made.cells[place - 1])
    scope: dict[str, object] = {}
    exec(made.cells[place].source, scope)
    assert scope["CV"] == 1.5 and scope["REPLY"] == {"max_new_tokens": 4} and scope["MODEL"] == "a `model`"
    assert not any("injected" in cell.source for cell in first.notebook.cells), "the chapter itself stays as it is"


@pytest.mark.parametrize("size", ["quick", "full"])
def test_every_value_of_a_profile_is_a_parameter_of_its_chapter(size):
    values = parameters_for(read_profile("smollm2-135m"), size, UNITS)
    by_number = {chapter.number: chapter for chapter in NUMBERED}
    for number, own in values.items():
        where = by_number[number].parameters if number else set().union(*(c.parameters for c in NUMBERED))
        assert own.keys() <= where, f"{number}: {own.keys() - where}"
    left = {
        chapter.number: {"CV", "CONTROLS", "N_DEV", "REPLY"} & chapter.parameters - values[""].keys()
        for chapter in NUMBERED
    }
    assert not any(left.values()), left


@pytest.mark.slow
def test_every_chapter_runs_to_its_end_on_a_random_model_and_says_nothing_of_the_bundled_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    folder = tmp_path / "random-llama"
    build("llama", max_position_embeddings=2048).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    told: list[str] = []
    done = reproduce(str(folder), tmp_path / "out", profile="quick", say=told.append, progress=False)
    failed = {name[:2]: error for name, error in done.failures.items() if name[:2] <= "13"}
    # steering moves no reply of a random model, and a correlation with nothing is refused
    assert failed.keys() <= {"12"} and "nothing correlates" in failed.get("12", "nothing correlates"), failed
    for chapter in NUMBERED:
        page = (tmp_path / "out" / "html" / f"{chapter.name}.html").read_text()
        cells = nbformat.read(tmp_path / "out" / "notebooks" / chapter.path.name, 4).cells
        shown = page + "\n".join(cell.source for cell in cells)
        if chapter.number != "10":
            assert not [sentence for sentence in sentences(chapter) if sentence in shown], chapter.name
    assert any("about" in line and "replies of up to 24 tokens" in line for line in told)
    stamp = kv.figures.read_stamp(Path(tmp_path, "out", "figures", "03_dose_response.png"))
    assert stamp.models[0][0] == "random-llama"


def test_run_in_place_under_another_model_is_refused():
    path = Path(__file__).resolve().parents[2] / "notebooks"
    done = subprocess.run(
        [sys.executable, str(path / "execute.py"), "00_quickstart.ipynb"],
        env={**os.environ, "KVSTEER_MODEL": "tiny-control"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "name a folder with --to" in done.stderr
