"""The explorer in a real browser: chapter 11, run in JupyterLab; by mouse, by keyboard, in both themes.

One server, one kernel and one page for all tests. `KVSTEER_SCREENSHOTS=DIR` keeps pictures of every tab in both themes
(`make screenshots`: those of the docs). Without Chromium or Playwright these tests are left out, unless
`KVSTEER_BROWSER=required`.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, left_out
from explorer_page import TABS, UNNAMED, ExplorerPage, chapter_in_lab
from page_scripts import FOCUS, REACHABLE, STOP_AFTER

from kvsteer_lab.cli.commands import COMMANDS

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")
BIG = dict(
    sweep="ck x cv", sweep_questions=64, sweep_ck=[0.0, 0.25, 0.5, 0.75, 1.0], sweep_cv=[x / 4 for x in range(33)]
)
SMALL = dict(sweep="ck x cv", sweep_questions=3, sweep_ck=[0.0, 1.0], sweep_cv=[0.0, 1.0, 2.0], measure="reasoned")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(
    browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ExplorerPage, list[str], dict[str, Any]]]:
    """Chapter 11, all its cells run in JupyterLab; the errors of its page; and the state in which it ends."""
    with chapter_in_lab(browser, NOTEBOOKS / "11_explorer.ipynb", tmp_path_factory.mktemp("lab")) as (found, errors):
        yield found, errors, found.save_state()


@pytest.fixture
def explorer(lab: tuple[ExplorerPage, list[str], dict[str, Any]]) -> Iterator[ExplorerPage]:
    """The explorer as the chapter sets it, two texts side by side; at the end nothing may have gone wrong on the
    page.
    """
    found, errors, first = lab
    found.set_theme("Light")
    found.restore({**first, "arms": ["baseline", "cache steering"], **SMALL})
    found.tab("Side by side")
    yield found
    assert not errors, errors


def text(explorer: ExplorerPage, arm: str) -> Any:
    """What an arm says."""
    return explorer.arm(arm).locator(".kv-text")


def test_a_slider_moved_by_keys_changes_the_steered_text_alone(explorer: ExplorerPage) -> None:
    steered, plain, dose = (
        text(explorer, "cache steering"),
        text(explorer, "baseline").inner_text(),
        explorer.at("dose-line").inner_text(),
    )
    assert steered.inner_text() != plain
    handle = explorer.at("cv").locator(".noUi-handle")
    handle.focus()
    for _ in range(20):
        handle.press("ArrowLeft")
    explorer.wait_for_number("cv", 0.0)
    steered.filter(has_text=plain).wait_for()
    explorer.at("dose-line").filter(has_text="values ×0 ").wait_for()
    text(explorer, "baseline").filter(has_text=plain).wait_for()
    assert explorer.at("dose-line").inner_text() != dose


def test_a_token_of_the_prompt_tells_its_attention(explorer: ExplorerPage) -> None:
    """By mouse, by keyboard, and by touch, where the first tap tells and the second one steers."""
    explorer.root.locator(".kv-details .jupyter-widget-Collapse-header", has_text="token by token").click()
    tokens, line = explorer.root.locator(".kv-prompt-token"), explorer.at("prompt-reading")

    def says(position: int) -> str:
        number = r"0\.\d{3} \(most [01]\.\d{3}, in layer \d+, head \d+\)"
        arms = f"baseline {number}; cache steering {number}\\."
        told = rf"^Position {position} \(-\d+\), .* from the offset token .*: {arms}$"
        line.filter(has_text=re.compile(told)).wait_for()
        return line.inner_text()

    last = tokens.count() - 1
    tokens.nth(2).hover()
    assert says(2) in tokens.nth(2).get_attribute("title")
    tokens.nth(last).focus()
    said = says(last)
    explorer.page.keyboard.press("ArrowLeft")
    assert says(last - 1) != said
    before = explorer.root.locator(".kv-prompt-token.kv-here").get_attribute("data-slot")
    explorer.page.mouse.move(0, 0)  # what is drawn anew under a mouse is pointed at
    explorer.tap(tokens.nth(last - 2))
    says(last - 2)
    assert explorer.root.locator(".kv-prompt-token.kv-here").get_attribute("data-slot") == before == "-1"
    explorer.tap(tokens.nth(last - 2))
    explorer.root.locator(".kv-prompt-token.kv-here[data-slot='-3']").wait_for()
    assert says(last - 2) != said, "read again under the new setting"
    tokens.nth(last).focus()
    explorer.page.keyboard.press("Enter")
    explorer.root.locator(".kv-prompt-token.kv-here[data-slot='-1']").wait_for()
    explorer.page.wait_for_function("document.activeElement.dataset.slot === '-1'")
    explorer.root.locator(".kv-details .jupyter-widget-Collapse-header", has_text="token by token").click()


def test_a_slider_dragged_fast_ends_at_its_last_value(explorer: ExplorerPage) -> None:
    plain, box = text(explorer, "baseline").inner_text(), explorer.at("cv").locator(".noUi-base").bounding_box()
    explorer.drag("cv", 0.4)
    mouse, y = explorer.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + 0.4 * box["width"], y)
    mouse.down()
    for step in range(40):
        mouse.move(box["x"] + (0.4 + 0.015 * (step % 20)) * box["width"], y)
    mouse.move(box["x"] + box["width"] / 3, y)
    mouse.up()
    explorer.wait_for_number("cv", 0.0)
    text(explorer, "cache steering").filter(has_text=plain).wait_for()
    explorer.at("status").filter(has_text="Done.").wait_for()
    assert explorer.save_state()["cv"] == 0.0


def test_a_number_beyond_the_slider_is_typed_by_keyboard(explorer: ExplorerPage) -> None:
    explorer.at("cv").locator(".noUi-handle").focus()
    explorer.page.keyboard.press("Tab")
    assert explorer.page.evaluate(FOCUS)["name"] == "c_v (values), typed"
    explorer.page.keyboard.press("Control+a")
    explorer.page.keyboard.type("99")
    explorer.page.keyboard.press("Enter")
    explorer.at("dose-line").filter(has_text="values ×").wait_for()
    handle = explorer.at("cv").locator(".noUi-handle")
    # its end
    explorer.page.wait_for_function(
        "handle => Number(handle.getAttribute('aria-valuenow')) >= 7.9", arg=handle.element_handle()
    )
    assert explorer.save_state()["cv"] == 99
    explorer.type("cv-typed", "1.03")
    explorer.page.wait_for_function(
        "handle => Number(handle.getAttribute('aria-valuenow')) < 2", arg=handle.element_handle()
    )
    explorer.at("status").filter(has_text="Done.").wait_for()
    assert explorer.save_state()["cv"] == 1.03, "the slider's steps are not the box's"


def test_ones_own_text_is_what_the_list_says(explorer: ExplorerPage) -> None:
    explorer.choose("task", "my own text")
    explorer.type("prompt", "Tom has 3 pens, buys 4. How many pens does Tom have now?")
    explorer.at("status").filter(has_text="Done.").wait_for()
    assert explorer.at("task").locator("select").evaluate("list => list.selectedOptions[0]?.label").split() == [
        "my",
        "own",
        "text",
    ]


def test_texts_of_an_earlier_setting_are_grey_and_said_to_be(explorer: ExplorerPage) -> None:
    line = explorer.at("earlier-line")
    assert not line.is_visible()
    explorer.restore({**explorer.save_state(), **BIG})
    explorer.tab("Ablation")
    explorer.sweep("to go")
    explorer.tab("Side by side")
    for value in range(20):  # a comparison is short, so it may be over before it is stopped
        explorer.page.evaluate(STOP_AFTER, [".kv-cv-typed input", str(-value)])
        explorer.page.wait_for_timeout(1000)
        if explorer.at("status").inner_text() == "Cancelled.":
            break
        explorer.tab("Ablation")
        explorer.sweep("to go")
        explorer.tab("Side by side")
    line.wait_for()
    assert explorer.arm("cache steering").evaluate("view => getComputedStyle(view).filter") == "grayscale(1)"
    assert not explorer.poor_contrast()[1]
    explorer.at("run").click()
    line.wait_for(state="hidden")


@pytest.mark.parametrize(
    "width", [1500, 900, 640]
)  # with JupyterLab's file browser beside it: 1100, 470 and 270 for the explorer
def test_a_slider_and_its_text_are_seen_together(explorer: ExplorerPage, width: int) -> None:
    explorer.page.set_viewport_size({"width": width, "height": 900})
    try:
        explorer.root.scroll_into_view_if_needed()
        slider, steered = explorer.at("cv"), explorer.arm("cache steering")
        slider.scroll_into_view_if_needed()
        for what in (slider, steered, explorer.at("cv-typed")):
            box = what.bounding_box()
            assert box["y"] >= 0 and box["y"] + min(box["height"], 100) <= 900 and box["x"] + box["width"] <= width, (
                what,
                box,
            )
            assert box["width"] > 40 and box["height"] > 20, (what, box)
        assert steered.bounding_box()["width"] > 150
    finally:
        explorer.page.set_viewport_size({"width": 1500, "height": 1050})


def test_bad_input_is_one_line_and_the_explorer_lives_on(explorer: ExplorerPage) -> None:
    error = explorer.at("status").locator(".kv-error")
    explorer.type("question", "-1")
    error.filter(has_text="question").wait_for()
    assert "\n" not in error.inner_text() and "Traceback" not in error.inner_text()
    explorer.type("question", "1")
    explorer.at("status").filter(has_text="Done.").wait_for()
    explorer.choose("task", "my own text")
    error.filter(has_text="The prompt is empty").wait_for()
    explorer.type("prompt", "count " * 3000)
    error.filter(has_text=re.compile("prompt|tokens")).filter(has_not_text="is empty").wait_for()
    explorer.type("prompt", "Tom has 3 pens, buys 4. How many pens does Tom have now?")
    explorer.at("status").filter(has_text="Done.").wait_for()
    assert text(explorer, "cache steering").inner_text().strip()
    explorer.tab("Ablation")
    explorer.type("sweep-cv", "1, two")
    error.filter(has_text="sweep_cv").wait_for()
    explorer.type("sweep-cv", "1, 2")
    explorer.sweep("Done")


def test_a_sweep_is_cancelled_at_once_keeps_what_is_done_and_runs_again(explorer: ExplorerPage) -> None:
    explorer.restore({**explorer.save_state(), **BIG})
    explorer.tab("Ablation")
    waited = []
    for _ in range(3):
        explorer.sweep("to go")
        waited.append(explorer.time_cancel())
        done, total = map(int, re.findall(r"\d+", explorer.at("sweep-status").inner_text())[:2])
        assert 0 < done < total == 165
        assert explorer.root.locator("td.kv-done").count() == done
        assert explorer.at("sweep-run").is_enabled() and explorer.at("sweep-cancel").is_disabled()
    print(f"cancelled after {', '.join(f'{ms:.0f}' for ms in waited)} ms")
    assert statistics.median(waited) < 1000
    explorer.restore({**explorer.save_state(), **SMALL})
    explorer.tab("Ablation")
    explorer.sweep("Done: 6 cells")
    assert explorer.root.locator("td.kv-done").count() == 6


def test_a_cell_that_is_clicked_shows_its_texts_and_gives_its_setting(explorer: ExplorerPage) -> None:
    explorer.tab("Ablation")
    explorer.sweep("Done: 6 cells")
    explorer.cell(1, 1).click()
    shown = explorer.at("cell-texts").first
    shown.filter(has_text="c_k = 1, c_v = 1").wait_for()
    assert shown.locator("tr").count() == 1 + 3
    assert explorer.cell(1, 1).get_attribute("aria-selected") == "true"
    explorer.at("cell-use").click()
    for name in ("ck", "cv"):
        explorer.wait_for_number(name, 1.0)
    first = shown.locator("tr").nth(1).locator("td").nth(1).inner_text()
    explorer.tab("Side by side")
    text(explorer, "cache steering").filter(has_text=first.rstrip(" ✓✗")).wait_for()


def test_the_heatmap_by_keys(explorer: ExplorerPage) -> None:
    explorer.tab("Ablation")
    keyboard = explorer.page.keyboard
    explorer.sweep("Done: 6 cells", by=lambda button: button.press("Enter"))
    explorer.at("sweep-run").focus()
    for _ in range(6):  # from Run past Cancel into the one cell that Tab comes to
        keyboard.press("Tab")
        if explorer.page.evaluate("document.activeElement.matches('.kv-heatmap td')"):
            break
    at = explorer.page.evaluate(
        "[Number(document.activeElement.dataset.row), Number(document.activeElement.dataset.column)]"
    )
    keyboard.press("ArrowUp" if at[0] else "ArrowDown")
    keyboard.press("ArrowLeft" if at[1] == 2 else "ArrowRight")
    keyboard.press("Enter")
    row, column = 1 - at[0], at[1] - 1 if at[1] == 2 else at[1] + 1
    explorer.at("cell-texts").filter(has_text=f"c_k = {row}, c_v = {column}").wait_for()
    assert explorer.cell(row, column).get_attribute("aria-selected") == "true"


def test_the_geometry_tab_tells_each_pairs_question(explorer: ExplorerPage) -> None:
    points = explorer.points()
    assert points.count() == 80
    points.nth(45).hover(force=True)
    said = explorer.root.locator(".kv-scatter-text")
    said.filter(has_text=re.compile(r"(stepwise|analogical), pair \d+: \w+")).wait_for()
    before = said.inner_text()
    explorer.root.locator(".kv-scatter > svg").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.page.wait_for_function(
        "before => document.querySelector('.kv-scatter-text').innerText !== before", arg=before
    )
    title = explorer.root.locator(".kv-scatter > svg").get_attribute("aria-label")
    handle = explorer.at("geometry-layer").locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    explorer.page.wait_for_function(
        "title => document.querySelector('.kv-scatter > svg').getAttribute('aria-label') !== title", arg=title
    )
    handle.press("Home")
    explorer.at("geometry-status").locator(".kv-error", has_text="In layer 0").wait_for()


def test_a_figure_is_saved_and_tells_what_it_shows(
    explorer: ExplorerPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explorer.tab("Export")
    explorer.type("figure-path", str(tmp_path / "tokens"))
    explorer.at("save-figure").click()
    explorer.at("keep-status").filter(has_text=f"Written: {tmp_path / 'tokens'}").wait_for()
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".svg", ".png", ".csv"}
    for suffix in (".pdf", ".svg", ".png"):
        COMMANDS["figure-info"](tmp_path / f"tokens{suffix}")
        assert "those that it was drawn from" in capsys.readouterr().out
    explorer.at("save-figure").click()
    explorer.at("keep-status").locator(".kv-error", has_text="exists").wait_for()


def test_a_state_is_saved_and_restored(explorer: ExplorerPage) -> None:
    state = explorer.save_state()
    before = text(explorer, "cache steering").inner_text()
    explorer.open_all(".kv-controls ")
    explorer.choose("part", "keys")
    explorer.at("layers-2").click()
    explorer.at("arms-random-control").click()
    explorer.type("question", "2")
    explorer.arm("random control").locator(".kv-token").first.wait_for(state="attached")
    changed = explorer.save_state()
    assert {name for name in state if state[name] != changed[name]} == {"part", "layers", "arms", "question"}
    explorer.restore(state)
    assert explorer.save_state() == state
    explorer.tab("Side by side")
    text(explorer, "cache steering").filter(has_text=before.removesuffix("[end]")).wait_for()


def test_every_control_has_a_name_and_is_reached_by_tab(explorer: ExplorerPage) -> None:
    for title in TABS:
        explorer.tab(title)
        explorer.open_all()
        assert UNNAMED.findall(explorer.root.aria_snapshot()) == [], title
        wanted = set(explorer.root.evaluate(REACHABLE))
        explorer.at("run").focus()
        reached: dict[int, dict[str, Any]] = {}
        while (at := explorer.page.evaluate(FOCUS)) is not None and at["number"] not in reached:
            reached[at["number"]] = at
            explorer.page.keyboard.press("Tab")
        assert wanted <= reached.keys(), (
            f"{title}: {len(wanted - reached.keys())} of {len(wanted)} controls aren't reached"
        )
        assert [at for at in reached.values() if not (at["name"] and at["seen"])] == [], title


def test_letters_typed_here_are_no_commands_to_the_notebook(explorer: ExplorerPage) -> None:
    cells = explorer.page.locator(".jp-Cell").count()
    explorer.at("cv").locator(".noUi-handle").focus()
    for key in ("b", "a", "x", "d", "d"):
        explorer.page.keyboard.press(key)
    assert explorer.page.locator(".jp-Cell").count() == cells
    header = explorer.root.locator(".kv-more .jupyter-widget-Collapse-header").first
    header.focus()
    before = header.get_attribute("aria-expanded")
    explorer.page.keyboard.press("Enter")
    explorer.page.wait_for_function(
        "([node, before]) => node.getAttribute('aria-expanded') !== before", arg=[header.element_handle(), before]
    )


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_text_stands_out_from_its_background(explorer: ExplorerPage, theme: str) -> None:
    every = ["baseline", "CoT prompt", "forced prefix", "cache steering", "random control"]
    explorer.restore(
        {**explorer.save_state(), "arms": every, "sweep_questions": 8, "sweep_cv": [0.0, 0.5, 1.0, 1.5, 2.0, 4.0]}
    )
    explorer.set_theme(theme)
    explorer.page.set_viewport_size({"width": 1500, "height": 1900})
    try:
        for title in TABS:
            if title == "Geometry":
                explorer.points().nth(20).hover(force=True)
            explorer.tab(title)
            if title == "Ablation":
                explorer.sweep("Done: 12 cells")
                explorer.cell(0, 4).click()
                explorer.at("cell-texts").locator("tr").nth(8).wait_for()
            if title == "Strength ladder":
                explorer.at("ladder-run").click()
                explorer.at("ladder-status").filter(has_text="Done.").wait_for()
            if title == "Side by side":
                explorer.arm("cache steering").locator(".kv-token").nth(1).click()
                explorer.at("next-tokens").get_by_text("Top-k alternatives at token 2").wait_for()
            if title == "Export":
                for name in ("figure", "vectors", "state"):
                    explorer.type(f"{name}-path", f"{theme.lower()}/{name}")
                explorer.at("save-state").click()
                explorer.at("keep-status").filter(has_text="Written").wait_for()
            if SCREENSHOTS:
                explorer.picture(Path(SCREENSHOTS) / f"{title.lower().replace(' ', '_')}_{theme.lower()}.png")
            explorer.open_all()
            lowest, poor = explorer.poor_contrast()
            print(f"{theme}, {title}: lowest contrast {lowest:.2f}")
            assert not poor
        explorer.type("question", "-1")
        explorer.at("status").locator(".kv-error").wait_for()
        assert not explorer.poor_contrast()[1]
    finally:
        explorer.page.set_viewport_size({"width": 1500, "height": 1050})


def test_from_letting_go_of_a_slider_to_the_text(explorer: ExplorerPage) -> None:
    times = [explorer.time_drag("cv", (0.55, 0.65)[turn % 2], "cache steering") for turn in range(6)][1:]
    first, full = (statistics.median(own[name] for own in times) for name in ("first", "full"))
    print(f"first token after {first:.0f} ms, full text after {full:.0f} ms")
    assert first < 3000 and full < 6000, "an idle machine takes a tenth; see benchmarks/"
