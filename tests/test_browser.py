"""The explorer in a real browser: chapter 11 run in JupyterLab, and the page of `make app`; by mouse, by keyboard, in both themes.

One server, one kernel and one page for all tests of JupyterLab. `KVSTEER_SCREENSHOTS=DIR` keeps pictures of every tab. Without Chromium or Playwright
these tests are left out, unless `KVSTEER_BROWSER=required`.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from browsing import chromium, descendants, free_port, jupyter_lab, left_out, open_page, run_all, serving, stop
from explorer_page import FOCUS, REACHABLE, TABS, UNNAMED, ExplorerPage

from kvsteer_lab.commands import COMMANDS

REASON = left_out()
if REASON and os.environ.get("KVSTEER_BROWSER") == "required":
    raise RuntimeError(f"The tests in a browser are required here, but {REASON}.")
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SCREENSHOTS = os.environ.get("KVSTEER_SCREENSHOTS")
BIG = dict(sweep="ck x cv", sweep_questions=64, sweep_ck=[0.0, 0.25, 0.5, 0.75, 1.0], sweep_cv=[x / 4 for x in range(33)])
SMALL = dict(sweep="ck x cv", sweep_questions=3, sweep_ck=[0.0, 1.0], sweep_cv=[0.0, 1.0, 2.0], measure="reasoned")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ExplorerPage, list[str], dict[str, Any]]]:
    """Chapter 11, all its cells run in JupyterLab; the errors of its page; and the state in which it ends."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    notebook, done = nbformat.read(NOTEBOOKS / "11_explorer.ipynb", 4), folder / "done"
    notebook.cells = [cell for cell in notebook.cells if cell.source != "explorer.close()"]
    notebook.cells.append(nbformat.v4.new_code_cell(f"from pathlib import Path\nPath({str(done)!r}).touch()"))
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "notebooks" / "explorer.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSTEER_FIGURES", str(folder / "figures"))
        with jupyter_lab(folder / "notebooks", folder / "own") as (server, token):
            page, errors = open_page(browser)
            run_all(page, server, token, "explorer.ipynb")
            end = time.monotonic() + 240
            while not done.exists():
                assert time.monotonic() < end, f"chapter 11 isn't through:\n{page.locator('.jp-OutputArea-output').all_inner_texts()}"
                page.wait_for_timeout(200)
            assert page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0
            explorer = ExplorerPage(page, folder)
            explorer.root.scroll_into_view_if_needed()
            yield explorer, errors, explorer.save_state()
            page.close()


@pytest.fixture
def explorer(lab: tuple[ExplorerPage, list[str], dict[str, Any]]) -> Iterator[ExplorerPage]:
    """The explorer with the chapter's knobs, two texts side by side; at the end nothing may have gone wrong on the page."""
    found, errors, first = lab
    set_theme(found.page, "Light")
    found.restore({**first, "arms": ["baseline", "cache steering"], **SMALL})
    found.tab("Side by side")
    yield found
    assert not errors, errors


def set_theme(page: Any, name: str) -> None:
    """Choose one of JupyterLab's themes in its menu."""
    if page.locator(f"body[data-jp-theme-name='JupyterLab {name}']").count():
        return
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    for item in ("Theme", f"JupyterLab {name}"):
        page.locator(".lm-Menu-item", has=page.get_by_text(item, exact=True)).click()
    page.locator(f"body[data-jp-theme-name='JupyterLab {name}']").wait_for(state="attached")


def text(explorer: ExplorerPage, arm: str) -> Any:
    """What an arm says."""
    return explorer.arm(arm).locator(".kv-text")


def test_a_slider_moved_by_keys_changes_the_steered_text_alone(explorer: ExplorerPage) -> None:
    steered, plain, dose = text(explorer, "cache steering"), text(explorer, "baseline").inner_text(), explorer.at("dose-line").inner_text()
    assert steered.inner_text() != plain
    handle = explorer.at("cv").locator(".noUi-handle")
    handle.focus()
    for _ in range(20):
        handle.press("ArrowLeft")
    explorer.at("cv").locator(".widget-readout", has_text="0.00").wait_for()
    steered.filter(has_text=plain).wait_for()
    explorer.at("dose-line").filter(has_text="values ×0 ").wait_for()
    assert text(explorer, "baseline").inner_text() == plain
    assert explorer.at("dose-line").inner_text() != dose


def test_a_slider_dragged_fast_ends_at_its_last_value(explorer: ExplorerPage) -> None:
    box = explorer.at("cv").locator(".noUi-base").bounding_box()
    explorer.drag("cv", 0.4)
    mouse, y = explorer.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + 0.4 * box["width"], y)
    mouse.down()
    for step in range(40):
        mouse.move(box["x"] + (0.4 + 0.015 * (step % 20)) * box["width"], y)
    mouse.move(box["x"] + box["width"] / 3, y)
    mouse.up()
    explorer.at("cv").locator(".widget-readout", has_text="0.00").wait_for()
    text(explorer, "cache steering").filter(has_text=text(explorer, "baseline").inner_text()).wait_for()
    explorer.at("status").filter(has_text="Done.").wait_for()
    assert explorer.save_state()["cv"] == 0.0


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
    explorer.at("sweep-run").click()
    explorer.at("sweep-status").filter(has_text="Done").wait_for()


def test_a_sweep_is_cancelled_at_once_keeps_what_is_done_and_runs_again(explorer: ExplorerPage) -> None:
    explorer.restore({**explorer.save_state(), **BIG})
    explorer.tab("Ablation")
    waited = []
    for _ in range(3):
        explorer.at("sweep-run").click()
        explorer.root.locator("td.kv-done").nth(4).wait_for()
        explorer.at("sweep-status").filter(has_text=re.compile(r"to go")).wait_for()
        waited.append(explorer.time_cancel())
        done, total = map(int, re.findall(r"\d+", explorer.at("sweep-status").inner_text())[:2])
        assert 0 < done < total == 165
        assert explorer.root.locator("td.kv-done").count() == done
        assert explorer.at("sweep-run").is_enabled() and explorer.at("sweep-cancel").is_disabled()
    print(f"cancelled after {', '.join(f'{ms:.0f}' for ms in waited)} ms")
    assert statistics.median(waited) < 1000
    explorer.restore({**explorer.save_state(), **SMALL})
    explorer.tab("Ablation")
    explorer.at("sweep-run").click()
    explorer.at("sweep-status").filter(has_text="Done: 6 cells").wait_for()
    assert explorer.root.locator("td.kv-done").count() == 6


def test_a_cell_that_is_clicked_shows_its_texts_and_gives_its_setting(explorer: ExplorerPage) -> None:
    explorer.tab("Ablation")
    explorer.at("sweep-run").click()
    explorer.at("sweep-status").filter(has_text="Done: 6 cells").wait_for()
    explorer.cell(1, 1).click()
    shown = explorer.at("cell-texts").first
    shown.filter(has_text="c_k = 1, c_v = 1").wait_for()
    assert shown.locator("tr").count() == 1 + 3
    assert explorer.cell(1, 1).get_attribute("aria-selected") == "true"
    explorer.at("cell-use").click()
    for name in ("ck", "cv"):
        explorer.at(name).locator(".widget-readout", has_text="1.00").wait_for()
    explorer.at("status").filter(has_text="Done.").wait_for()
    first = shown.locator("tr").nth(1).locator("td").nth(1).inner_text()
    explorer.tab("Side by side")
    assert first.startswith(text(explorer, "cache steering").inner_text().removesuffix("[end]"))


def test_the_heatmap_by_keys(explorer: ExplorerPage) -> None:
    explorer.tab("Ablation")
    explorer.at("sweep-run").focus()
    keyboard = explorer.page.keyboard
    keyboard.press("Enter")
    explorer.at("sweep-status").filter(has_text="Done: 6 cells").wait_for()
    for _ in range(6):  # from Run past Cancel into the one cell that Tab comes to
        keyboard.press("Tab")
        if explorer.page.evaluate("document.activeElement.matches('.kv-heatmap td')"):
            break
    at = explorer.page.evaluate("[Number(document.activeElement.dataset.row), Number(document.activeElement.dataset.column)]")
    keyboard.press("ArrowUp" if at[0] else "ArrowDown")
    keyboard.press("ArrowLeft" if at[1] == 2 else "ArrowRight")
    keyboard.press("Enter")
    row, column = 1 - at[0], at[1] - 1 if at[1] == 2 else at[1] + 1
    explorer.at("cell-texts").filter(has_text=f"c_k = {row}, c_v = {column}").wait_for()
    assert explorer.cell(row, column).get_attribute("aria-selected") == "true"


def test_the_geometry_tab_tells_each_pairs_question(explorer: ExplorerPage) -> None:
    explorer.tab("Geometry")
    points = explorer.root.locator(".kv-scatter > svg .kv-point")
    points.nth(79).wait_for(state="attached")
    assert points.count() == 80
    points.nth(45).hover(force=True)
    said = explorer.root.locator(".kv-scatter-text")
    said.filter(has_text=re.compile(r"(stepwise|analogical), pair \d+: \w+")).wait_for()
    before = said.inner_text()
    explorer.root.locator(".kv-scatter > svg").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.page.wait_for_function("before => document.querySelector('.kv-scatter-text').innerText !== before", arg=before)
    title = explorer.root.locator(".kv-scatter > svg").get_attribute("aria-label")
    handle = explorer.at("geometry-layer").locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    explorer.page.wait_for_function("title => document.querySelector('.kv-scatter > svg').getAttribute('aria-label') !== title", arg=title)
    handle.press("Home")
    explorer.at("geometry-status").locator(".kv-error", has_text="In layer 0").wait_for()


def test_a_figure_is_saved_and_tells_what_it_shows(explorer: ExplorerPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explorer.tab("Keep")
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
        assert wanted <= reached.keys(), f"{title}: {len(wanted - reached.keys())} of {len(wanted)} controls aren't reached"
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
    explorer.page.wait_for_function("([node, before]) => node.getAttribute('aria-expanded') !== before", arg=[header.element_handle(), before])


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_text_stands_out_from_what_is_behind_it(explorer: ExplorerPage, theme: str) -> None:
    every = ["baseline", "CoT prompt", "forced prefix", "cache steering", "random control"]
    explorer.restore({**explorer.save_state(), "arms": every, "sweep_questions": 8, "sweep_cv": [0.0, 0.5, 1.0, 1.5, 2.0, 4.0]})
    set_theme(explorer.page, theme)
    explorer.page.set_viewport_size({"width": 1500, "height": 1900})
    try:
        for title in TABS:
            explorer.tab(title)
            if title == "Ablation":
                explorer.at("sweep-run").click()
                explorer.at("sweep-status").filter(has_text="Done: 12 cells").wait_for()
                explorer.cell(0, 4).click()
                explorer.at("cell-texts").locator("tr").nth(8).wait_for()
            if title == "Geometry":
                explorer.root.locator(".kv-scatter > svg .kv-point").nth(20).hover(force=True)
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


def test_the_app_shows_the_explorer_to_this_machine_alone_and_ends_cleanly(browser: Any, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, str(NOTEBOOKS / "serve.py"), f"--port={port}", "--no-browser"]
    with serving(command, "/voila/static/favicon.ico", tmp_path, port) as server:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\w+", server.log.read_text())
        listening = {found.laddr.ip for found in psutil.Process(server.process.pid).net_connections() if found.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        page, errors = open_page(browser)
        page.route(re.compile(r"https://.*"), lambda route: route.abort())  # Voila's page names icons of another site; the explorer does without
        page.goto(server.url)
        assert "/login" in page.url, "without its token nobody gets in"
        page.goto(address)
        explorer = ExplorerPage(page, tmp_path)
        explorer.at("status").filter(has_text="Done.").wait_for()
        before = text(explorer, "cache steering").inner_text()
        handle = explorer.at("cv").locator(".noUi-handle")
        handle.focus()
        for _ in range(4):
            handle.press("PageDown")
        text(explorer, "cache steering").filter(has_text=text(explorer, "baseline").inner_text()).wait_for()
        assert text(explorer, "cache steering").inner_text() != before
        for theme in ("light", "dark"):
            if theme == "dark":
                page.goto(f"{address}&theme=dark")
                explorer.arm("cache steering").locator(".kv-token").first.wait_for()
                assert page.locator("body.theme-dark").count() == 1
            assert explorer.poor_contrast()[1] == []
            if SCREENSHOTS:
                explorer.picture(Path(SCREENSHOTS) / f"app_{theme}.png")
        page.close()
        assert [error for error in errors if "https://" not in error] == []
        kernels = descendants(server.process.pid)
        stop(server.process)
        assert "Traceback" not in server.log.read_text()
        assert not any(kernel.is_running() for kernel in kernels)
