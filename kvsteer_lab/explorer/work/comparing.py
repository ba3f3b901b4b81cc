"""Interventions side by side on one prompt: their texts as they are generated, then each text token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...evaluation.plan import describe_reply
from ...generation.generate import prepare, read_row
from ...generation.outputs import Generation
from ...generation.rows import Row, window_warning
from ...generation.settings import Settings
from ...interventions.base import Intervention, Nothing
from ...models.token_texts import text_after
from ...stats.texts import is_loop, repetition
from ...tasks.styles import detect_style, is_reasoned
from ..results.comparison import Asked, Compared, Comparison
from ..state import Arm, ExplorerState
from ..threads import Cancelled
from ..workspace import Workspace
from .extracting import extract_missing_residuals
from .measuring import measure_rows
from .prompt_tokens import prompt_tokens
from .running import run_rows

OnText = Callable[[Arm, str, int], None]
"""Is given an arm, its text so far, and the number of its tokens."""


def generation_settings(state: ExplorerState) -> dict[str, Any]:
    """What `kv.generate` takes as `generation`."""
    settings: dict[str, Any] = {"max_new_tokens": state.max_new_tokens}
    return settings | (
        {"do_sample": True, "temperature": state.temperature, "top_p": state.top_p} if state.sample else {}
    )


def compare_arms(
    workspace: Workspace,
    state: ExplorerState,
    cancelled: Cancelled,
    on_texts: Callable[[Comparison], None],
    on_measured: Callable[[Comparison], None],
    on_text: OnText,
    on_read: Callable[[int], None] = lambda tokens: None,
) -> Iterator[None]:
    """Decode all arms together, then read their texts token by token; yields where other work may go first.

    Args:
        workspace: the model and what is at hand.
        state: what is asked and compared.
        cancelled: stops it at the next token.
        on_texts: is given the comparison when all texts are whole.
        on_measured: is given it again when they are measured.
        on_text: is told of every new token.
        on_read: is told, before the prompts are read, how many tokens the longest has.

    Raises:
        ValueError: whatever the state asks for that can't be done; before anything is computed.
        CancelledError: `cancelled` was set.
    """
    asked = workspace.asked(state)
    if "activation steering" in state.arms:
        for _ in extract_missing_residuals(workspace, state, cancelled):
            yield
    workspace.check_slot([asked], state.slot)
    methods = workspace.interventions(state)
    further = workspace.further_controls(state)
    rows, settings = _prepare(workspace, state, asked, [*methods.values(), *further])
    warned = (window_warning(workspace.model, rows, state.max_new_tokens), *workspace.tell_of_other_weights(state))
    arms = list(methods)
    tokenizer = workspace.model.tokenizer
    forced = [tokenizer.decode(row.forced, skip_special_tokens=True) for row in rows]

    def tell(row: int, ids: list[int]) -> None:
        if row < len(arms):  # the further controls are counted, not watched
            on_text(arms[row], forced[row] + text_after(tokenizer, rows[row].forced, ids), len(ids))

    on_read(max(len(row.prompt_ids) for row in rows))
    found: dict[int, list[int]] = {}
    for batch in run_rows(workspace.model, rows, settings, state.seed, cancelled, tell):
        found.update(batch)
        yield
    labels = [*arms, *(method.label for method in further)]
    texts = [
        read_row(workspace.model, row, (0, label, 0), found[i], settings)
        for i, (label, row) in enumerate(zip(labels, rows, strict=True))
    ]
    others = {"random control": tuple(texts[len(arms) :])}
    compared = [
        Compared(arm, text, judge(asked, methods[arm], text), others=others.get(arm, ()))
        for arm, text in zip(arms, texts, strict=False)
    ]
    prompt = prompt_tokens(workspace.model, asked)
    comparison = Comparison(state, asked, tuple(compared), tuple(filter(None, warned)), prompt)
    on_texts(comparison)
    yield
    (baseline,), _ = _prepare(workspace, state, asked, [Nothing()])
    reader = next(
        (
            arm
            for arm in ("cache steering", "activation steering", "random control", "CoT prompt", "forced prefix")
            if arm in arms
        ),
        None,
    )
    readers = [arms.index(reader) if arm == "baseline" and reader else i for i, arm in enumerate(arms)]
    sides = [(rows[i], baseline) for i in readers]
    for part in measure_rows(workspace.model, sides, [found[i] for i in range(len(arms))], cancelled):
        for i, measured in part:
            compared[i] = replace(compared[i], measured=measured, reader=reader if arms[i] == "baseline" else None)
        yield
    on_measured(replace(comparison, arms=tuple(compared)))


def _prepare(
    workspace: Workspace, state: ExplorerState, asked: Asked, methods: Sequence[Intervention]
) -> tuple[list[Row], Settings]:
    """A row a method, and the settings."""
    settings, rows, _ = prepare(
        workspace.model,
        [asked.prompt],
        methods,
        chat=True,
        offset=state.offset,
        generation=generation_settings(state),
        samples=1,
    )
    return rows, settings


def judge(asked: Asked, method: Intervention, text: Generation) -> dict[str, Any]:
    """What can be told of one text. Answers are read by the task's main rule, from the reply alone."""
    verdict: dict[str, Any] = dict(
        style=detect_style(text.answer),
        reasoned=is_reasoned(text.answer),
        tokens=len(text.token_ids),
        cut=text.finish_reason == "length",
        loop=is_loop(text.answer),
        repetition=repetition(text.token_ids),
    )
    if asked.task is not None and asked.question is not None:
        row = describe_reply(method, asked.task, asked.question, text, None)
        verdict |= dict(answer=row["read_answer"], gold=row["gold"], correct=row["correct"])
    return verdict
