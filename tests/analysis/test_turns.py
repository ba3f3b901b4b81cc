"""Conversations in one cache: against re-prefilling and plain PyTorch, token for token; what summaries say of planted
replies; bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import random_models
import reference
import torch
from matplotlib.container import ErrorbarContainer
from random_models import CONFIGS, PROMPTS, newline, vectors_for
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.analysis.conversations.histories import HISTORIES, minus
from kvsteer_lab.generation.conversation import Conversation, next_turn
from kvsteer_lab.generation.settings import Settings, resolve
from kvsteer_lab.stats.intervals import wilson
from kvsteer_lab.stats.significance import mcnemar

NEW = 6
CK, CV = 1.5, 8.0
FULL = [name for name in CONFIGS if name not in ("mistral, window 8", "gemma2", "gemma3")]
USER = [[{"role": "user", "content": "And 5 + 3?"}], [{"role": "user", "content": "The lazy dog?"}]]
Load = Callable[[str], kv.Model]


def ragged(model: kv.Model) -> Settings:
    """Settings under which the first row's reply ends early, so that caches have to be packed."""
    (row,) = kv.generate(model, PROMPTS[0], generation={"max_new_tokens": NEW, "eos_token_id": []}).token_ids
    return resolve(model, {"max_new_tokens": NEW, "eos_token_id": [row[2]]}, chat=True)


@pytest.mark.parametrize("name", FULL)
def test_going_on_is_prefilling_anew(name: str, load_random: Load) -> None:
    model = load_random(name)
    settings, tail = ragged(model), [newline(model)]
    state = Conversation(model, [model.encode(p) for p in PROMPTS])
    for turn in range(3):
        asked = [[*ids, *tail] for ids in state.ids]
        wanted = [reference.plain(model.hf, ids, NEW, eos_token_id=sorted(settings.eos)) for ids in asked]
        replies, logits = state.answer(tail, settings)
        assert replies == wanted
        assert logits.argmax(-1).tolist() == [reply[0] for reply in replies]
        if turn == 0:
            assert len({len(reply) for reply in replies}) > 1, "replies must differ in length"
        if turn < 2:
            state.read([next_turn(model, [USER[0], *USER[: turn + 1]])] * 3)
            assert state.cached == [len(ids) for ids in state.ids]
            for row, ids in enumerate(state.ids):
                for ours, theirs in zip(state.cache.layers, reference.prefill(model.hf, ids).layers, strict=True):
                    torch.testing.assert_close(ours.keys[row, :, -len(ids) :], theirs.keys[0], rtol=1e-4, atol=1e-4)
                    torch.testing.assert_close(ours.values[row, :, -len(ids) :], theirs.values[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own", ["the model's", "the caller's"])
def test_the_first_logits_are_raw(own: str, model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-odds are the model's own, whatever penalty chooses the tokens."""
    if own == "the model's":
        monkeypatch.setattr(model.hf.generation_config, "repetition_penalty", 0.1)
    ids, tail = [model.encode(p) for p in PROMPTS], [newline(model)]
    asked = {"max_new_tokens": NEW, **({} if own == "the model's" else {"repetition_penalty": 0.1})}
    replies, logits = Conversation(model, ids).answer(tail, resolve(model, asked, chat=True))
    with torch.no_grad():
        wanted = torch.stack([model.hf(torch.tensor([[*row, *tail]])).logits[0, -1] for row in ids])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    plain = kv.generate(model, PROMPTS, generation={"max_new_tokens": NEW, "repetition_penalty": 1.0}).token_ids
    assert replies != plain, "the penalty must show in what is said"


@pytest.mark.parametrize("name", FULL)
def test_subtracting_gives_the_plain_cache_back(name: str, load_random: Load) -> None:
    model = load_random(name)
    state = Conversation(model, [model.encode(p) for p in PROMPTS])
    before = state.fork()
    own, slot = vectors_for(model), [n - 1 for n in state.cached]
    deltas = [(kv.CacheDelta(own.keys, own.values, s),) for s in slot]
    state.add(deltas)
    pairs = list(zip(before.cache.layers, state.cache.layers, strict=True))
    assert all((a.keys - b.keys).abs().max() > 0.1 and (a.values - b.values).abs().max() > 0.1 for a, b in pairs)
    state.add([minus(row) for row in deltas])
    for a, b in pairs:
        torch.testing.assert_close(a.keys, b.keys, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.values, b.values, rtol=0, atol=1e-6)


def test_the_ids_are_the_templates_but_for_the_offsets(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    first, second, third = (task.chat(q) for q in task.questions("dev", 3, 0))
    settings, offset = resolve(tiny, None, chat=True), newline(tiny)
    state, said = Conversation(tiny, [tiny.encode(first)]), []
    for turns in ([first, second], [first, second, third]):
        (reply,), _ = state.answer([offset], settings)
        said.append(tiny.tokenizer.decode(reply[:-1]))
        state.read([next_turn(tiny, turns)])
    chat = [
        *first,
        {"role": "assistant", "content": said[0]},
        *second,
        {"role": "assistant", "content": said[1]},
        *third,
    ]
    assert len(state.ids[0]) == len(tiny.encode(chat)) + 2
    at = [len(tiny.encode(chat[:n])) for n in (1, 3)]
    left = [token for i, token in enumerate(state.ids[0]) if i not in (at[0], at[1] + 1)]
    assert [state.ids[0][at[0]], state.ids[0][at[1] + 1]] == [offset, offset] and left == tiny.encode(chat)


def by_hand(
    model: kv.Model, way: str, chats: Sequence[Any], keys: torch.Tensor, values: torch.Tensor
) -> list[list[int]]:
    """One conversation in plain PyTorch: no batch, no padding, token by token."""
    hf, offset = model.hf, newline(model)
    turns = [model.encode(chats[0]), *(next_turn(model, chats[: t + 1]) for t in range(1, len(chats)))]

    @torch.no_grad()
    def feed(cache: Any, ids: Sequence[int]) -> torch.Tensor:
        return reference.read_on(hf, ids, cache)

    def add(cache: Any, slot: int, sign: int = 1) -> None:
        for layer, k, v in zip(cache.layers, keys, values, strict=True):
            layer.keys[0, :, slot] += sign * k
            layer.values[0, :, slot] += sign * v

    def answer(cache: Any) -> list[int]:
        found = [int(feed(cache, [offset]).argmax())]
        while len(found) < NEW:
            found.append(int(feed(cache, found[-1:]).argmax()))
        feed(cache, found[-1:])
        return found

    slot, (text, traces, kept, again) = (
        len(turns[0]) - 1,
        (getattr(HISTORIES[way], x) for x in ("text", "traces", "slot", "again")),
    )
    cache = reference.prefill(hf, turns[0])
    plain = answer(reference.prefill(hf, turns[0]))
    steered_cache = reference.prefill(hf, turns[0])
    add(steered_cache, slot)
    steered = answer(steered_cache)
    opening = steered if text else plain
    if traces:
        add(cache, slot)
    feed(cache, [offset, *opening])
    if kept and not traces:
        add(cache, slot)
    if traces and not kept:
        add(cache, slot, -1)
    replies = [opening]
    for ids in turns[1:]:
        feed(cache, ids)
        if again:
            add(cache, -1)
        replies.append(answer(cache))
    return replies


@pytest.mark.parametrize("way", list(HISTORIES))
def test_every_way_is_plain_pytorch(way: str, load_random: Load) -> None:
    model, task = load_random("qwen3"), Toy()
    steering = kv.CacheSteering(vectors_for(model), CK, CV, layers=range(model.n_layers))
    long = {"max_new_tokens": NEW, "eos_token_id": []}
    rows = kv.analysis.follow_conversations(
        model,
        task,
        steering,
        way,
        turns=3,
        n=2,
        token=5,
        generation=long,
        progress=False,
        batch_size=1 + (way == "kept"),
    )
    questions = task.questions("dev", 6)
    for c in range(2):
        chats = [task.chat(q) for q in questions[3 * c : 3 * c + 3]]
        wanted = by_hand(model, way, chats, CK * steering.vectors.keys, CV * steering.vectors.values)
        found = rows[(rows.way == way) & (rows.conversation == c)].sort_values("turn")
        assert found.text.tolist() == [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in wanted]
        plain = rows[(rows.way == "plain") & (rows.conversation == c)].sort_values("turn")
        assert (found.text.tolist()[0] != plain.text.tolist()[0]) == HISTORIES[way].text
        assert (found.odds - plain.odds.to_numpy()).abs().tolist()[1] > 1e-3, (
            "what is left must show in the second turn"
        )


def test_nothing_added_is_the_plain_conversation_in_every_way(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    nearly = kv.CacheSteering(vectors_for(tiny), 1e-30, 1e-30)  # zero itself is refused
    rows = kv.analysis.follow_conversations(tiny, task, nearly, turns=4, n=3, token="Step", progress=False)
    plain = rows[rows.way == "plain"].set_index(["conversation", "turn"])
    for way in HISTORIES:
        own = rows[rows.way == way].set_index(["conversation", "turn"])
        assert own.text.equals(plain.text) and own.tokens.equals(plain.tokens)
        assert (own.odds - plain.odds).abs().max() < 1e-3


def test_controls_are_followed_in_the_same_run(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=2)
    steering = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), ck=0, cv=3)
    settings = dict(turns=2, n=3, progress=False)
    rows = kv.analysis.follow_conversations(tiny, task, steering, ["kept", "slot alone"], controls=2, **settings)
    alone = kv.analysis.follow_conversations(tiny, task, steering, ["kept", "slot alone"], batch_size=2, **settings)
    own = rows[rows.control_of.isna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(own.drop(columns="control_of"), alone.drop(columns="control_of"), atol=1e-3)
    assert len(rows) == 6 + 2 * 3 * 6 and rows[rows.control_of == steering.label].vector.nunique() == 2
    table = kv.analysis.summarise_turns(rows)
    assert list(zip(table.way, table.turn, strict=True)) == [
        (w, t) for w in ("plain", "kept", "slot alone") for t in (1, 2)
    ]
    for column in ("accuracy", "change"):
        (axis,) = kv.figures.plot_turns(table, column).axes
        ways = ["kept", "slot alone"] if column == "change" else ["plain", "kept", "slot alone"]
        assert [label.get_text() for label in axis.get_yticklabels()] == ways
        points = [bars.lines[0] for bars in axis.containers if isinstance(bars, ErrorbarContainer)]
        drawn = [float(point.get_xdata()[0]) for point in points]
        assert drawn == table[table.way.isin(ways)][column].tolist()
        left, right = axis.get_xlim()
        assert all(left < bar.get_x() and bar.get_x() + bar.get_width() < right for bar in axis.patches), (
            "none looks cut"
        )
        assert points[-2].get_markerfacecolor() != points[-1].get_markerfacecolor(), "a shade a turn"
    assert (
        table[table.way != "plain"].p_random_change.between(1 / 3, 1).all()
        and table[table.way == "plain"].random_reasoned.isna().all()
    )


def test_the_summary_of_planted_replies() -> None:
    rows = []
    for way, vector, control_of, right in (
        ("plain", "baseline", None, 2),
        ("kept", "s", None, 9),
        ("kept", "r1", "s", 3),
        ("kept", "r2", "s", 9),
    ):
        for turn in (1, 2):
            for c in range(10):
                good = c < right if turn == 1 else c < 2
                shared = dict(way=way, vector=vector, control_of=control_of, conversation=c, turn=turn, tokens=5 + turn)
                rows.append(
                    shared
                    | dict(
                        correct=good,
                        reasoned=good,
                        adopted=False,
                        odds=float(c) + (3.0 if good else 1.0) * (vector != "baseline"),
                    )
                )
    table = kv.analysis.summarise_turns(
        pd.DataFrame(rows).sample(frac=1, random_state=0).sort_values("way", ascending=False)
    ).set_index(["way", "turn"])
    first = table.loc[("kept", 1)]
    assert (first.accuracy, first.tokens, first.n) == (0.9, 6.0, 10)
    assert (first.accuracy_low, first.accuracy_high) == pytest.approx(wilson(9, 10))
    p = mcnemar([True] * 9 + [False], [True] * 2 + [False] * 8)
    assert first.p_accuracy == pytest.approx(p) and first.p_accuracy_holm == pytest.approx(2 * p)
    assert table.loc[("kept", 2)].p_accuracy == 1 and first.p_adopted == 1
    assert first.change == pytest.approx((9 * 3 + 1) / 10) and first.change_low < first.change < first.change_high
    assert first.random_accuracy == pytest.approx(0.6) and first.p_random_accuracy == pytest.approx(2 / 3)
    assert first.random_change == pytest.approx(
        ((3 * 3 + 7) / 10 + 2.8) / 2
    ) and first.p_random_change == pytest.approx(2 / 3)
    assert table.loc[("plain", 1)].accuracy == 0.2 and pd.isna(table.loc[("plain", 1)].p_accuracy)


@pytest.mark.parametrize(("change", "p"), [(0.5, 1 / 3), (9e-4, 1.0)])
def test_changes_of_less_than_a_thousandth_of_a_nat_are_not_ranked(change: float, p: float) -> None:
    """Their order is rounding: it was another on another processor."""
    odds = {"baseline": 0.0, "s": change, "r1": change / 9, "r2": -change / 2}
    rows = pd.DataFrame(
        [
            dict(way="plain" if vector == "baseline" else "kept", vector=vector, conversation=c, odds=value)
            for vector, value in odds.items()
            for c in range(4)
        ]
    ).assign(turn=1, tokens=3, correct=False, reasoned=False, adopted=False)
    rows["control_of"] = rows.vector.map({"r1": "s", "r2": "s"})
    kept = kv.analysis.summarise_turns(rows).set_index("way").loc["kept"]
    assert kept.change == pytest.approx(change) and kept.p_random_change == pytest.approx(p)


def test_bad_input(model: kv.Model, vectors: kv.KVVectors, load_random: Load) -> None:
    steering = kv.CacheSteering(vectors, CK, CV)
    cases: list[tuple[dict[str, Any], str]] = [
        (dict(ways="forgotten"), "'forgotten' is not a way to continue; choose from: kept, subtracted, re-prefilled"),
        (dict(ways=[]), "The list of ways is empty; choose from: kept"),
        (dict(turns=2.5), "turns=2.5 is not a whole number; take two or more"),
        (dict(n="2"), "n='2' is not a whole number"),
        (dict(steering=None), "'baseline' is not cache steering"),
        (dict(token=1.5), "1.5 is not a token; pass a text that is one token, or a token id"),
        (dict(turns=1), "turns=1 leaves no later turn that an edit could last to; take two or more"),
        (dict(n=0), "n=0 conversations make no interval; take two or more"),
        (
            dict(steering=replace(steering, vectors=vectors * 0.0, name="nil")),
            "What 'nil' adds is zero in the steered layers",
        ),
        (dict(steering=replace(steering, layers=[])), "steers no layer; name one"),
        (dict(steering=kv.Nothing()), "'baseline' is not cache steering"),
        (dict(offset=None), "A steered slot needs an offset token that reads it"),
        (dict(token="two words"), r"'two words' is \d tokens for this tokenizer, not one"),
        (dict(generation={"do_sample": True}), "Conversations are answered greedily"),
        (
            dict(generation={"max_new_tokens": 300}),
            r"2 turns of up to 300 new tokens may need \d+ slots, but the context of .* is 512; take fewer",
        ),
        (dict(split="train"), "Unknown split 'train'"),
    ]
    for changes, message in cases:
        given = {
            **dict(task=Toy(), steering=steering, turns=2, n=2, generation={"max_new_tokens": 4}, progress=False),
            **changes,
        }
        with pytest.raises(ValueError, match=message):
            kv.analysis.follow_conversations(model, **given)
    short = load_random("mistral, window 8")
    with pytest.raises(
        kv.UnsteerableModelError,
        match="has sliding windows of 8 tokens, so a long conversation can't go on in one cache; choose",
    ):
        kv.analysis.follow_conversations(short, Toy(), kv.CacheSteering(vectors_for(short), CK, CV))
    with pytest.raises(ValueError, match="The table holds no plain conversations to compare with"):
        kv.analysis.summarise_turns(pd.DataFrame(dict(way=["kept"], turn=[1])))


def test_a_template_that_forgets_replies_is_refused() -> None:
    forgetful = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}\n{% endif %}{% endfor %}"
    )
    model = kv.load(random_models.build("llama"), random_models.tokenizer(template=forgetful))
    with pytest.raises(
        ValueError,
        match=(
            "The chat template doesn't write out what was replied before, so the conversation can't go on in one cache"
        ),
    ):
        kv.analysis.follow_conversations(
            model, Toy(), kv.CacheSteering(vectors_for(model), CK, CV), generation={"max_new_tokens": 4}
        )


def test_the_figure_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="There is no column 'charm' to draw; choose one of: accuracy"):
        kv.figures.plot_turns(pd.DataFrame(dict(way=["kept"])), "charm")
    with pytest.raises(ValueError, match="The table holds plain conversations only"):
        kv.figures.plot_turns(pd.DataFrame(dict(way=["plain"])))
