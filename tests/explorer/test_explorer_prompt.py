"""The prompt as a strip of tokens tells the attention to each: read once, in the thread, with the lock; the numbers of
the analysis.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from explorer_bench import PATIENCE, Made, busy, compared, find
from nasty import NASTY, seen_in_html

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.results.comparison import Asked, Comparison
from kvsteer_lab.explorer.results.prompt_attention import PromptAttention, SlotAttention
from kvsteer_lab.explorer.state import ExplorerState
from kvsteer_lab.explorer.threads import Cancelled
from kvsteer_lab.explorer.views.prompt_strip import attention_lines, prompt_html
from kvsteer_lab.explorer.work import prompt_attention
from kvsteer_lab.explorer.work.prompt_attention import ARMS, read_prompt_attention
from kvsteer_lab.explorer.workspace import Workspace
from kvsteer_lab.models.lock import LOCK

PROMPT = 2  # its place among the details


def read(workspace: Workspace, comparison: Comparison) -> PromptAttention:
    found: list[PromptAttention] = []
    for _ in read_prompt_attention(workspace, comparison, Cancelled(), found.append):
        pass
    return found[0]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """For each reading of a prompt, the thread that does it, and whether another one could have the model."""
    calls: list[tuple[str, bool]] = []
    weights = prompt_attention.weights_on_prompt

    def count(model: kv.Model, row: Any) -> Any:
        free: list[bool] = []

        def try_it() -> None:
            free.append(LOCK.acquire(timeout=0.05))
            if free[0]:
                LOCK.release()

        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        calls.append((threading.current_thread().name, free[0]))
        return weights(model, row)

    monkeypatch.setattr(prompt_attention, "weights_on_prompt", count)
    return calls


def unfold(explorer: Explorer) -> list[str]:
    """What is said of each token once the strip is unfolded."""
    explorer.page.side.details.selected_index = PROMPT
    assert explorer.wait(PATIENCE)
    return list(explorer.page.picking.lines)


def test_the_numbers_are_those_of_the_analysis(made: Made) -> None:
    workspace, state = made.workspace(), made.state(ck=0.3, cv=6.0, max_new_tokens=4)
    comparison = compared(workspace, state)
    found = read(workspace, comparison)
    prompt, n = comparison.asked.prompt, len(comparison.prompt)
    assert found.reader == state.offset and tuple(found.arms) == ARMS, "a CoT prompt is another prompt"
    methods = [workspace.intervention(arm, state) for arm in ARMS]
    for slot in range(-n, 0):
        table = kv.analysis.attention_to_slot(
            made.model, [prompt], methods, ["12"], steps=1, slot=slot, offset=state.offset, progress=False
        )
        for arm, method in zip(ARMS, methods, strict=True):
            own, rows = found.arms[arm][slot], table[table.intervention == method.label]
            assert own.mean == pytest.approx(rows.attention.mean(), abs=1e-6)
            assert own.most == pytest.approx(rows.attention.max(), abs=1e-6)
            there = rows[(rows.layer == own.layer) & (rows["head"] == own.head)]
            assert there.attention.item() == pytest.approx(own.most, abs=1e-6)
    for arm in ARMS:
        total = sum(slot.mean for slot in found.arms[arm])
        assert 0.5 < total < 1, "what is left goes to the token itself"
        assert arm == "baseline" or found.arms[arm] != found.arms["baseline"], arm


def test_a_setting_that_adds_nothing_looks_like_the_baseline(made: Made) -> None:
    workspace = made.workspace()
    comparison = compared(workspace, made.state(ck=0.0, cv=0.0, arms=("baseline", "cache steering")))
    found = read(workspace, comparison).arms
    assert found["baseline"] == found["cache steering"]
    forced = read(workspace, compared(workspace, made.state(arms=("forced prefix",)))).arms
    assert list(forced) == ["baseline"], "of arms that read another prompt, or read on, nothing is told"


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_slots_that_a_window_has_left_get_nothing(name: str, load_random: Any) -> None:
    model = load_random(name)
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=2, shots=1)
    workspace = Workspace(model, {"stepwise": kv.extract(model, pairs, progress=False)}, tasks={task.name: task})
    state = ExplorerState(
        task=task.name, mix={"stepwise": 1.0}, arms=("baseline", "cache steering"), max_new_tokens=2, cv=4.0
    )
    comparison = compared(workspace, state)
    found, prompt = read(workspace, comparison), comparison.asked.prompt
    n = len(comparison.prompt)
    for slot in (-n, -n // 2, -1):
        table = kv.analysis.attention_to_slot(model, [prompt], None, ["1"], steps=1, slot=slot, progress=False)
        assert found.arms["baseline"][slot].mean == pytest.approx(table.attention.mean(), abs=1e-6)
    assert (found.arms["baseline"][0].mean < 1 / (2 * n)) <= (name == "gemma3")


def test_it_is_read_once_when_the_strip_is_unfolded(explorer: Explorer, counted: list[tuple[str, bool]]) -> None:
    explorer.set(cv=3.0)
    assert explorer.wait(PATIENCE) and explorer.prompt_attention is None
    assert not counted and not explorer.page.picking.lines, "folded in, nothing is read"
    lines = unfold(explorer)
    assert counted == [("kvsteer-explorer", False)] * 2
    n = len(explorer.comparison.prompt)  # type: ignore[union-attr]
    own = explorer.prompt_attention.arms["cache steering"][-2]  # type: ignore[union-attr]
    assert len(lines) == n and lines[-2].startswith(f"Position {n - 2} (-2), ")
    assert f"cache steering {own.mean:.3f} (most {own.most:.3f}, in layer {own.layer}, head {own.head})" in lines[-2]
    for number in range(1, 4):
        explorer.page.picking.asked = number  # a token is pointed at
    explorer.page.side.details.selected_index = None
    assert unfold(explorer) == lines and len(counted) == 2


def test_a_new_comparison_is_read_again_while_the_strip_is_open(
    explorer: Explorer, counted: list[tuple[str, bool]]
) -> None:
    before = unfold(explorer)
    explorer.set(ck=1.0, cv=6.0)
    assert explorer.wait(PATIENCE) and len(counted) == 4
    after = list(explorer.page.picking.lines)
    assert len(after) == len(before) and after != before
    gate = busy(explorer)
    explorer.set(slot=-3)
    gate.set()
    assert explorer.wait(PATIENCE)
    assert list(explorer.page.picking.lines) != after and len(counted) == 6
    explorer.page.side.details.selected_index = None
    explorer.set(cv=5.0)
    assert explorer.wait(PATIENCE) and len(counted) == 6
    assert not explorer.page.picking.lines, "numbers of another setting aren't shown"
    assert unfold(explorer)
    explorer.set(task=None, prompt="")
    assert explorer.wait(PATIENCE) and not explorer.page.picking.lines, "no prompt, no numbers"


def test_stopped_before_it_was_read_it_is_read_when_a_token_is_pointed_at(
    explorer: Explorer, counted: list[tuple[str, bool]]
) -> None:
    gate = busy(explorer)
    explorer.page.side.details.selected_index = PROMPT
    explorer.cancel()
    gate.set()
    assert explorer.wait(PATIENCE) and not counted
    explorer.page.picking.asked = 1
    assert explorer.wait(PATIENCE) and len(counted) == 2 and explorer.page.picking.lines


def test_a_model_whose_attention_is_closed_says_so_once(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(model: kv.Model, row: Any) -> None:
        asked.append(row)
        raise kv.UnsteerableModelError("The attention of this model can't be looked into.")

    monkeypatch.setattr(prompt_attention, "weights_on_prompt", refuse)
    assert unfold(explorer) == []
    assert explorer.page.picking.otherwise == "The attention of this model can't be looked into."
    explorer.page.picking.asked = 1
    assert explorer.wait(PATIENCE) and len(asked) == 1


def test_a_page_without_a_kernel_tells_what_was_read(explorer: Explorer) -> None:
    assert "Attention from" not in explorer.as_html()
    line = unfold(explorer)[3]
    assert line in seen_in_html(explorer.as_html().replace('title="', ">").replace('">', "<i>"))
    assert "first token is decided" in seen_in_html(
        "".join(child.value for child in explorer.page.side.details.children[PROMPT].children)
    )
    assert find(explorer, "kv-prompt-tokens").value == prompt_html(explorer.comparison.prompt, -1)  # type: ignore[union-attr]


def test_lines_show_tokens_on_one_line() -> None:
    slot = SlotAttention(0.25, 1, 2, 0.5)
    for text in NASTY:
        comparison = Comparison(ExplorerState(), Asked(text), (), prompt=(text,))
        (line,) = attention_lines([text], PromptAttention(comparison, "\n", {"baseline": (slot,)}))
        assert line.isprintable() and "baseline 0.250 (most 0.500, in layer 1, head 2)." in line
