"""Interventions side by side on one prompt: texts as they are generated, then what they are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ...evaluation.plan import describe
from ...generation.generate import prepare, read_row
from ...generation.outputs import Generation
from ...generation.rows import Row, window_warning
from ...generation.settings import Settings
from ...interventions.base import Intervention, Nothing
from ...stats.texts import is_loop, repetition
from ...tasks.styles import detect_style, is_reasoned
from ..state import Arm, ExplorerState
from ..workspace import Asked, Bench
from .extracting import extract_missing_residuals
from .measuring import Measured, measure_rows
from .running import run_rows

OnText = Callable[[Arm, str], None]
"""Is given an arm and its text so far."""


@dataclass(frozen=True)
class Compared:
    """One arm of a comparison.

    Attributes:
        arm: its name.
        generation: the text.
        verdict: `style`, `reasoned`, `tokens`, `loop`, `repetition`, `cut`, and for a task's question `answer`, `gold`,
            `correct`.
        measured: the text read under this arm and under the baseline; of the baseline's own text, read under `reader`
            and under the baseline.
        reader: the arm that reads the baseline's text.
    """

    arm: Arm
    generation: Generation
    verdict: Mapping[str, Any]
    measured: Measured | None = field(default=None, repr=False)
    reader: Arm | None = None


@dataclass(frozen=True)
class Comparison:
    """What one state gave: its arms in the state's order, and what the library warned of."""

    state: ExplorerState
    asked: Asked
    arms: tuple[Compared, ...]
    warned: tuple[str, ...] = ()

    def __getitem__(self, arm: str) -> Compared:
        return next(own for own in self.arms if own.arm == arm)

    def to_frame(self) -> pd.DataFrame:
        """One row an arm: `arm`, `text` (forced words included), the verdict, and the nats of KL over the first tokens
        (`kl_1`, `kl_8`) and all.
        """
        rows = []
        for own in self.arms:
            nats = (
                {name: own.measured.nats(first) for name, first in (("kl_1", 1), ("kl_8", 8), ("kl_total", None))}
                if own.measured and not own.reader
                else {}
            )
            rows.append({"arm": own.arm, "text": own.generation.answer, **own.verdict, **nats})
        return pd.DataFrame(rows)

    def tokens(self) -> pd.DataFrame:
        """One row an arm and token: `arm`, `step` (from 1), `token`, `logprob`, `change`, `kl`. The baseline has none:
        nothing is changed there.
        """
        columns = ["arm", "step", "token", "logprob", "change", "kl"]
        rows = [
            (own.arm, step, *token)
            for own in self.arms
            if own.measured is not None and own.arm != "baseline"
            for step, token in enumerate(
                zip(own.measured.pieces, own.measured.logprobs, own.measured.change, own.measured.kl, strict=True), 1
            )
        ]
        return pd.DataFrame(rows, columns=columns)


def generation_settings(state: ExplorerState) -> dict[str, Any]:
    """What `kv.generate` takes as `generation`."""
    settings: dict[str, Any] = {"max_new_tokens": state.max_new_tokens}
    return settings | (
        {"do_sample": True, "temperature": state.temperature, "top_p": state.top_p} if state.sample else {}
    )


def compare_arms(
    bench: Bench,
    state: ExplorerState,
    cancelled: threading.Event,
    on_texts: Callable[[Comparison], None],
    on_measured: Callable[[Comparison], None],
    on_text: OnText,
) -> Iterator[None]:
    """Decode all arms together, then read their texts token by token; yields where other work may go first.

    Args:
        bench: the model and what is at hand.
        state: what is asked and compared.
        cancelled: stops it at the next token.
        on_texts: is given the comparison when all texts are whole.
        on_measured: is given it again when they are measured.
        on_text: is told of every new token.

    Raises:
        ValueError: whatever the state asks for that can't be done; before anything is computed.
        CancelledError: `cancelled` was set.
    """
    asked = bench.asked(state)
    if "activation steering" in state.arms:
        for _ in extract_missing_residuals(bench, state, cancelled):
            yield
    bench.check_slot([asked], state.slot)
    methods = bench.interventions(state)
    rows, settings = _prepare(bench, state, asked, methods)
    warned = (window_warning(bench.model, rows, state.max_new_tokens), *bench.tell_of_other_weights(state))
    arms = list(methods)
    decode = bench.model.tokenizer.decode
    forced = [decode(list(row.forced)) if row.forced else "" for row in rows]

    def tell(row: int, ids: list[int]) -> None:
        on_text(arms[row], forced[row] + decode(ids, skip_special_tokens=True))

    found: dict[int, list[int]] = {}
    for batch in run_rows(bench.model, rows, settings, state.seed, cancelled, tell):
        found.update(batch)
        yield
    texts = [
        read_row(bench.model, row, (0, arm, 0), found[i], settings)
        for i, (arm, row) in enumerate(zip(arms, rows, strict=True))
    ]
    compared = [Compared(arm, text, judge(asked, methods[arm], text)) for arm, text in zip(arms, texts, strict=True)]
    comparison = Comparison(state, asked, tuple(compared), tuple(filter(None, warned)))
    on_texts(comparison)
    yield
    (baseline,), _ = _prepare(bench, state, asked, {"baseline": Nothing()})
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
    for part in measure_rows(bench.model, sides, [found[i] for i in range(len(rows))], cancelled):
        for i, measured in part:
            compared[i] = replace(compared[i], measured=measured, reader=reader if arms[i] == "baseline" else None)
        yield
    on_measured(replace(comparison, arms=tuple(compared)))


def _prepare(
    bench: Bench, state: ExplorerState, asked: Asked, methods: Mapping[Any, Intervention]
) -> tuple[list[Row], Settings]:
    """A row an arm, and the settings."""
    settings, rows, _ = prepare(
        bench.model,
        [asked.prompt],
        list(methods.values()),
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
        row = describe(method, asked.task, asked.question, text, None)
        verdict |= dict(answer=row["read_answer"], gold=row["gold"], correct=row["correct"])
    return verdict
