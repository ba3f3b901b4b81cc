"""What the explorer says of texts, on a page of its own: the verdict, tokens that are picked, the strength ladder,
earlier comparisons, the static page, and a cancel while another text is written.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, left_out
from explorer_page import ExplorerPage, explorer_alone

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")
ARMS = ["baseline", "cache steering", "random control"]
LONG = dict(
    sweep="ck x cv", sweep_questions=64, sweep_ck=[0.0, 0.25, 0.5, 0.75, 1.0], sweep_cv=[x / 4 for x in range(33)]
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ExplorerPage, dict[str, Any]]]:
    """A browser, the explorer in it, and the state in which it begins."""
    with chromium() as browser, explorer_alone(browser, tmp_path_factory.mktemp("texts")) as found:
        yield browser, found, found.save_state()


@pytest.fixture
def explorer(page: tuple[Any, ExplorerPage, dict[str, Any]]) -> ExplorerPage:
    """The explorer with three random controls, strong enough that the steered text differs."""
    _, found, first = page
    found.restore({**first, "arms": ARMS, "n_controls": 3, "cv": 3.0, "ladder": [0.0, 4.0]})
    found.tab("Side by side")
    return found


def words(explorer: ExplorerPage, arm: str) -> list[str]:
    """The tokens of an arm's text, as they are shown."""
    return explorer.arm(arm).locator(".kv-token").all_inner_texts()


def test_the_verdict_stands_above_the_texts_and_is_true_of_them(explorer: ExplorerPage) -> None:
    line = explorer.at("verdict-line").locator(".kv-verdict")
    line.filter(has_text="leaves the baseline's text at token").wait_for()
    said = line.inner_text()
    pattern = r"at token (\d+): (.*) \(probability 0?1?\.\d+ → .*\) in place of (.*) \(.*\d of 3 random vectors"
    found = re.search(pattern, said)
    assert found, said
    step = int(found[1])
    plain, steered = words(explorer, "baseline"), words(explorer, "cache steering")
    assert plain[: step - 1] == steered[: step - 1] and plain[step - 1] != steered[step - 1]
    assert steered[step - 1].strip() == found[2].strip() and plain[step - 1].strip() == found[3].strip()
    texts = explorer.arm("cache steering").bounding_box()
    assert line.bounding_box()["y"] < texts["y"]
    explorer.type("cv-typed", "0")
    line.filter(has_text="says what the baseline says. 0 of 3 random vectors").wait_for()
    assert words(explorer, "cache steering") == words(explorer, "baseline")


def test_a_token_of_a_reply_is_picked_by_mouse_by_keys_and_by_touch(explorer: ExplorerPage) -> None:
    tokens, shown = explorer.arm("cache steering").locator(".kv-token"), explorer.at("next-tokens")

    def tells(step: int) -> None:
        shown.get_by_text(f"Top-k alternatives at token {step}").wait_for()
        for arm in ("baseline", "cache steering"):
            assert re.search(arm, shown.inner_text(), re.IGNORECASE), shown.inner_text()
        assert re.search(r"\d\.\d", shown.inner_text()), "probabilities"

    tokens.nth(1).click()
    tells(2)
    tokens.nth(1).focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.page.keyboard.press("Enter")
    tells(3)
    explorer.tap(tokens.nth(0))
    tells(1)


def test_the_ladder_begins_with_the_baseline_and_knows_its_setting(explorer: ExplorerPage) -> None:
    plain = explorer.arm("baseline").locator(".kv-text").inner_text().removesuffix("[end]").split()
    explorer.tab("Strength ladder")
    explorer.at("ladder-run").focus()
    explorer.page.keyboard.press("Enter")
    explorer.at("ladder-status").filter(has_text="Done.").wait_for()
    rows = explorer.root.locator("table.kv-ladder tr:has(td)")
    cells = [row.locator("td").all_inner_texts() for row in rows.all()]
    assert cells[0][:2] == ["0", "0.00"] and cells[1][0] == "4" and float(cells[1][1]) > 0.1
    assert " ".join(plain) in " ".join(" ".join(cells[0]).split())
    assert explorer.root.locator(".kv-sparks svg[aria-label]").count() == 2
    explorer.tab("Side by side")
    explorer.type("question", "2")
    explorer.at("status").filter(has_text="Done.").wait_for()
    explorer.tab("Strength ladder")
    explorer.at("ladder-status").filter(has_text="belongs to an earlier setting").wait_for()


def test_two_earlier_comparisons_show_their_difference(explorer: ExplorerPage) -> None:
    explorer.type("cv-typed", "0")
    explorer.at("verdict-line").filter(has_text="says what the baseline says").wait_for()
    explorer.open_all()
    rows = explorer.at("history").locator("select")
    newest = rows.locator("option").first.inner_text()
    assert re.search(r"\bcv\s0\b", newest), newest
    rows.select_option(index=[0, 1])
    shown = explorer.at("history-difference")
    shown.locator("ins").first.wait_for()
    assert shown.locator("del").count() and "struck out" in shown.inner_text()


def test_the_static_page_shows_the_texts_without_scripts(
    explorer: ExplorerPage, page: tuple[Any, ExplorerPage, dict[str, Any]], tmp_path: Path
) -> None:
    browser, steered = page[0], explorer.arm("cache steering").locator(".kv-text").inner_text()
    explorer.tab("Export")
    explorer.type("html-path", str(tmp_path / "explorer.html"))
    explorer.root.get_by_role("button", name="Export HTML").click()
    explorer.at("keep-status").filter(has_text="Written").wait_for()
    context = browser.new_context(java_script_enabled=False, offline=True)
    saved = context.new_page()
    saved.goto((tmp_path / "explorer.html").as_uri())
    seen = " ".join(saved.locator("body").inner_text().split())
    context.close()
    for said in (steered.removesuffix("[end]"), "leaves the baseline's text", "of 3 random vectors"):
        assert " ".join(said.split()) in seen, (said, seen[:2000])


def test_a_sweep_is_cancelled_within_a_second_while_a_text_is_written(explorer: ExplorerPage) -> None:
    explorer.restore({**explorer.save_state(), **LONG, "max_new_tokens": 256})
    waited = []
    for turn in range(3):
        explorer.tab("Ablation")
        explorer.sweep("to go")
        explorer.type("question", str(3 + turn))  # a comparison of long texts begins
        waited.append(explorer.time_cancel())
    print(f"cancelled after {', '.join(f'{ms:.0f}' for ms in waited)} ms")
    assert statistics.median(waited) < 1000
