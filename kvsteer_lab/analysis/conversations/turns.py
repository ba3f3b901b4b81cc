"""The persistence of one edit in conversations: the first turn is edited, and later turns follow in several histories,
beside plain conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..._util.batching import in_batches
from ..._util.progress import bar
from ...generation.conversation import check_going_on, next_turn
from ...generation.settings import resolve
from ...generation.stopping import read_said
from ...interventions.base import Intervention, Nothing
from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...models.tokens import offset_token
from ...tasks.base import Question, Task
from ...tasks.styles import detect_style, is_reasoned
from ..checks import check_steering
from ..watched_token import first_tokens, token_id
from .histories import HISTORIES, Dialogues, Ids, Reply


def follow_conversations(
    model: Model,
    task: Task,
    steering: CacheSteering,
    ways: str | Sequence[str] = tuple(HISTORIES),
    *,
    turns: int = 4,
    controls: int = 0,
    token: str | int | None = None,
    n: int = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Conversations of several questions each, edited once, in their first turn, and continued in several ways, beside
    plain conversations.

    The ways: `"kept"` continues in the very cache in which the steered reply was generated; `"subtracted"` takes the
    edit out of the slot after that reply, whose text, and keys and values computed beside the edit, stay;
    `"re-prefilled"` computes the same ids anew without the edit, so only the text stays; `"plain reply"` keeps the
    edited slot, but the plain reply is read after it; `"traces alone"` then takes the edit out; `"slot alone"` edits
    the first turn's slot of the plain conversation after its reply; `"every turn"` is kept, with a fresh edit in each
    turn's slot. What lies in the cache is described in `kvsteer_lab.generation.conversation.Conversation`. Subtracting
    is exact up to the rounding of the cache's dtype.

    Args:
        model: from `kv.load`; with full attention in all layers.
        task: its questions are asked, each once; a second stage of extraction (`Task.closing`) isn't run.
        steering: what is added to the first turn's slot.
        ways: names of ways to continue.
        turns: questions a conversation.
        controls: random vectors of the same norms, for each way; 0: none.
        token: whose log-odds are watched where each reply begins: a text that is one token, or an id; `None`: the
            commonest first token of the steered run.
        n: conversations.
        split, seed: as in `kv.evaluate`.
        offset: the token between the slot and the reply, in every turn.
        generation: as in `kv.generate`; greedy.
        batch_size: conversations answered together; halved where memory runs out.
        progress: whether to show a bar.

    Returns:
        One row per way (`"plain"` first), vector, conversation and turn: `way`, `vector` (the steering's or control's
        label; the baseline's for plain), `control_of` (for controls, the steering's label), `conversation`, `turn`
        (from 1), `question`, `text`, `tokens`, `finish_reason`, `gold`, `read_answer`, `correct`, `style`, `reasoned`,
        `adopted` (whether the style is that of the vectors), and `odds`, the log-odds log p / (1 - p) of `token` as the
        reply's first. `summarise_turns` makes a table of it.

    Raises:
        ValueError: a single turn or conversation, zero vectors, an unknown way, sampling, conversations that may exceed
            the context, sliding windows, a template that doesn't write out past replies, or what `kv.generate` refuses;
            before anything is computed.
        KeyboardInterrupt: the run was interrupted.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(turns=2, n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> rows = kv.analysis.follow_conversations(model, task, steering, "kept", **brief)
        >>> rows.groupby(["way", "turn"], sort=False).size().tolist()
        [2, 2, 2, 2]
    """
    named = _check_ways(ways, turns, n)
    check_going_on(model)
    asked = task.questions(split, n * turns, seed)
    questions = [asked[c * turns : (c + 1) * turns] for c in range(n)]
    check_steering(model, steering, [task.chat(q) for q in asked])
    talks = _plan(model, task, steering, questions, offset, generation, token)
    methods = [steering, *steering.controls(controls, seed)]
    plain: dict[int, list[Reply]] = {}
    done: dict[tuple[str, int, int], list[Reply]] = {}
    units = [(m, c) for m in range(len(methods)) for c in range(n)]
    with bar(n + len(units), "converse", "conversation", progress) as shown:
        for batch, replies in in_batches(range(n), batch_size, talks.plainly):
            plain.update(zip(batch, replies, strict=True))
            shown.update(len(batch))
        for part in (
            units[:n],
            units[n:],
        ):  # a batch takes as long as its longest reply, and random vectors' are of another length
            for some, found in in_batches(
                part, batch_size, lambda some: talks.edited([(methods[m], c) for m, c in some], plain, named)
            ):
                done.update(
                    {
                        (way, *unit): replies
                        for way, each in found.items()
                        for unit, replies in zip(some, each, strict=True)
                    }
                )
                shown.update(len(some))
    style = steering.style
    rows = [
        row for c in range(n) for row in _turn_rows(talks, task, "plain", Nothing(), c, questions[c], plain[c], style)
    ]
    rows += [
        row
        for way in named
        for m, c in units
        for row in _turn_rows(talks, task, way, methods[m], c, questions[c], done[way, m, c], style)
    ]
    return pd.DataFrame(rows)


def _check_ways(ways: str | Sequence[str], turns: int, n: int) -> list[str]:
    named = list(dict.fromkeys([ways] if isinstance(ways, str) else ways))
    unknown = [way for way in named if way not in HISTORIES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a way to continue; choose from: {', '.join(HISTORIES)}.")
    if not named:
        raise ValueError(f"The list of ways is empty; choose from: {', '.join(HISTORIES)}.")
    for name, value in (("turns", turns), ("n", n)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name}={value!r} is not a whole number; take two or more.")
    if turns < 2:
        raise ValueError(f"turns={turns} leaves no later turn that an edit could last to; take two or more.")
    if n < 2:
        raise ValueError(f"n={n} conversations make no interval; take two or more.")
    return named


def _plan(
    model: Model,
    task: Task,
    steering: CacheSteering,
    questions: Sequence[Sequence[Question]],
    offset: str | int,
    generation: Mapping[str, Any] | None,
    token: str | int | None,
) -> Dialogues:
    """What is read in every turn of each conversation; whatever is wrong is raised here."""
    tail = offset_token(model.tokenizer, offset)
    if tail is None:
        raise ValueError("A steered slot needs an offset token that reads it; pass offset='\\n'.")
    settings = resolve(model, generation, chat=True)
    if settings.sample:
        raise ValueError(
            "Conversations are answered greedily, for all that follows depends on what was said; leave do_sample out."
        )
    watched = None if token is None else token_id(model.tokenizer, token)
    prompts: list[list[Ids]] = []
    for row in questions:
        first, *later = [task.chat(q) for q in row]
        turns = [first, *([m for m in chat if m["role"] != "system"] for chat in later)]
        prompts.append([model.encode(first), *(next_turn(model, turns[: t + 1]) for t in range(1, len(turns)))])
    n, new = len(questions[0]), settings.max_new_tokens
    need = max(sum(map(len, row)) for row in prompts) + n * (1 + new)
    if model.context is not None and need > model.context:
        raise ValueError(
            f"{n} turns of up to {new} new tokens may need {need} slots, but the context of {model.name} is"
            f" {model.context}; take fewer turns or lower max_new_tokens."
        )
    if watched is None:
        watched = first_tokens(model, [task.chat(row[0]) for row in questions], steering, True, offset)[0]
    return Dialogues(model, prompts, (tail,), settings, watched)


def _turn_rows(
    talks: Dialogues,
    task: Task,
    way: str,
    method: Intervention,
    conversation: int,
    questions: Sequence[Question],
    replies: Sequence[Reply],
    style: str | None,
) -> list[dict[str, Any]]:
    """One row per turn."""
    read_answer = next(iter(task.rules.values()))
    rows = []
    for turn, (question, reply) in enumerate(zip(questions, replies, strict=True), 1):
        said = read_said(talks.settings.stop, talks.settings.eos, reply.ids)
        text = said.text
        read, looks = read_answer(question, text), detect_style(text)
        where = dict(
            way=way,
            vector=method.label,
            control_of=method.control_of,
            conversation=conversation,
            turn=turn,
            question=question.id,
        )
        answered = dict(
            text=text,
            tokens=len(said.ids if said.finish_reason == "stop" else reply.ids),
            finish_reason=said.finish_reason,
            gold=question.answer,
            read_answer=read,
        )
        judged = dict(
            correct=read == question.answer,
            style=looks,
            reasoned=is_reasoned(text),
            adopted=looks == style,
            odds=reply.odds,
        )
        rows.append(where | answered | judged)
    return rows
