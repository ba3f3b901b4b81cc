"""vLLM's engine with the plugin: token for token what `kv.generate` writes, and no cached block of another request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving_reference import DOSES
from vllm_engine import BLOCK, Engine

from kvsteer_lab.serving import salting

STEERED = {"vectors": "stepwise", "ck": 0, "cv": 8}


@pytest.fixture(scope="module")
def engine(reference_folder: Path, environment: None) -> Iterator[Engine]:
    yield Engine(reference_folder)


@pytest.fixture(scope="module")
def prompt(reference: dict[str, Any]) -> list[int]:
    """64 ids: the last slot is a block's last."""
    return next(ids for ids in reference["prompts"] if len(ids) >= 2 * BLOCK)[-2 * BLOCK :]


def asked(reference: dict[str, Any]) -> tuple[list[list[int]], list[Any], list[list[int]]]:
    """Prompts, requests and expected tokens; the unsteered baseline reads the offset token, too."""
    ids, wanted, expected = [], [], []
    for row in reference["rows"]:
        dose = DOSES[row["dose"]]
        ids.append([*reference["prompts"][row["prompt"]], *([] if dose else [reference["offset"]])])
        wanted.append(None if dose is None else {"vectors": "stepwise", "ck": dose[0], "cv": dose[1]})
        expected.append(row["ids"])
    return ids, wanted, expected


def test_tokens_are_those_of_the_library(engine: Engine, reference: dict[str, Any]) -> None:
    """Steered in three doses and unsteered, all in one batch; with an empty prefix cache and with a full one, under
    chunked prefill and preemption.
    """
    ids, wanted, expected = asked(reference)
    for state in ("empty", "full"):
        found = engine.tokens(ids, wanted)
        equal = [got == want for (got, _), want in zip(found, expected, strict=True)]
        steered = [ok for ok, one in zip(equal, wanted, strict=True) if one]
        cached = sum(n for _, n in found)
        print(f"prefix cache {state}: {sum(equal)} of {len(equal)} equal, {len(steered)} steered; {cached} cached")
        assert all(equal) and len(equal) >= 24
    assert cached > 0
    preempted = engine.metric("vllm:num_preemptions")
    print(f"preemptions: {preempted:.0f}; longest prompt {max(map(len, ids))} in steps of 64")
    assert preempted > 0 and max(map(len, ids)) > 2 * 64
    baseline = {row["prompt"]: row["ids"] for row in reference["rows"] if DOSES[row["dose"]] is None}
    changed = sum(row["ids"] != baseline[row["prompt"]] for row in reference["rows"] if DOSES[row["dose"]])
    print(f"steering changes {changed} of {len(steered)} texts")
    assert changed >= len(steered) / 2  # equality would be easy if nothing were steered


def test_equal_requests_in_one_step_share_no_edited_block(
    engine: Engine, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompt[:BLOCK]  # the slot is a block's last, and all six are read within one step
    expected = engine.fresh(prompt, STEERED)
    assert expected != engine.fresh([*prompt, *engine_offset()], None)
    engine.llm.reset_prefix_cache()
    found = engine.tokens([prompt] * 6, [STEERED] * 6)
    assert [tokens == expected for tokens, _ in found] == [True] * 6
    # the failing control: a salt that equal requests share, as a digest of the request would be
    monkeypatch.setattr(salting, "os", SimpleNamespace(urandom=lambda n: b"x" * n))
    engine.llm.reset_prefix_cache()
    shared = engine.tokens([prompt] * 6, [STEERED] * 6)
    right = sum(tokens == expected for tokens, _ in shared)
    print(f"equal requests in one step: 6 of 6 right with a nonce, {right} of 6 with a digest")
    assert right < 6
    engine.llm.reset_prefix_cache()


def test_a_prefix_is_shared_with_unsteered_requests_and_the_edited_slot_is_not(
    engine: Engine, prompt: list[int]
) -> None:
    plain_ids = [*prompt, *engine_offset()]
    steered, plain = engine.fresh(prompt, STEERED), engine.fresh(plain_ids, None)
    engine.llm.reset_prefix_cache()
    in_turn = [(prompt, STEERED, steered), (plain_ids, None, plain), (prompt, STEERED, steered)]
    hits = []
    for ids, one, expected in in_turn:
        ((got, cached),) = engine.tokens([ids], [one])
        assert got == expected
        hits.append(cached)
    assert hits[0] == 0 and hits[1] >= BLOCK and hits[2] == BLOCK  # the block before the edited one, and no more
    engine.llm.reset_prefix_cache()
    found = engine.tokens([prompt, plain_ids] * 3, [STEERED, None] * 3)
    assert [got for got, _ in found] == [steered, plain] * 3


def test_a_later_turn_reads_no_edit_of_an_earlier_one(engine: Engine, prompt: list[int]) -> None:
    reply = engine.fresh(prompt, STEERED, 40)
    later = [*prompt, *engine_offset(), *reply, *prompt[:31]]
    plain, steered = engine.fresh([*later, *engine_offset()], None), engine.fresh(later, STEERED)
    engine.llm.reset_prefix_cache()
    engine.tokens([prompt], [STEERED], 40)
    assert engine.tokens([[*later, *engine_offset()]], [None])[0][0] == plain
    assert engine.tokens([later], [STEERED])[0][0] == steered


def test_a_slot_anywhere_in_a_block(engine: Engine, prompt: list[int]) -> None:
    """Alone with an empty cache, and once more beside others with a full one."""
    changed = 0
    lengths = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK)
    for length in lengths:
        ids = prompt[:length]
        alone = engine.fresh(ids, STEERED, 12)
        changed += alone != engine.fresh([*ids, *engine_offset()], None, 12)
        together = engine.tokens([ids, prompt, ids], [STEERED, None, STEERED], 12)
        assert together[0][0] == together[2][0] == alone, length
    print(f"prompts of {lengths} tokens: equal alone and together; steering changes {changed}")
    assert changed >= 4


def test_dose_zero_is_the_baseline(engine: Engine, prompt: list[int]) -> None:
    zero = engine.fresh(prompt, {"vectors": "stepwise", "cv": 0})
    assert zero == engine.fresh([*prompt, *engine_offset()], None)


def test_chosen_layers_and_other_vectors(engine: Engine, prompt: list[int]) -> None:
    whole = engine.fresh(prompt, STEERED)
    assert engine.fresh(prompt, {**STEERED, "layers": list(range(1, 30))}) == whole
    assert engine.fresh(prompt, {"vectors": "half", "ck": 0, "cv": 16}) == whole
    assert engine.fresh(prompt, {**STEERED, "layers": [3]}) != whole


def test_four_samples_of_one_prompt(engine: Engine, prompt: list[int]) -> None:
    expected = engine.fresh(prompt, STEERED, 8)
    engine.llm.reset_prefix_cache()
    (found,) = engine.generate([prompt], [STEERED], 8, n=4, temperature=1e-4)  # sampled, and all but greedy
    assert [list(one.token_ids) for one in found.outputs] == [expected] * 4


def test_what_would_end_the_engine_is_refused(engine: Engine, prompt: list[int]) -> None:
    from vllm.exceptions import VLLMValidationError

    refused = [
        (engine.generate, dict(ids=[prompt], asked=[{**STEERED, "offset": 10**9}])),
        (engine.generate, dict(ids=[prompt], asked=[{**STEERED, "cv": float("nan")}])),
        (engine.generate, dict(ids=[prompt], asked=["{"])),
        (engine.generate, dict(ids=[prompt], asked=[STEERED], seed=1, temperature=1.0)),
        (engine.generate, dict(ids=[prompt], asked=[STEERED], prompt_logprobs=1)),
    ]
    for call, arguments in refused:
        with pytest.raises(VLLMValidationError):
            call(**arguments)
    expected = engine.fresh(prompt, STEERED)
    room = 512 - 2
    (longest,) = engine.generate([(prompt * 8)[:room]], [STEERED], 8)
    assert len(longest.outputs[0].token_ids) == 1  # the context is full
    try:
        (too_long,) = engine.generate([(prompt * 8)[: room + 1]], [STEERED], 1)
    except VLLMValidationError as error:  # since vLLM 0.33
        assert "room in the context" in str(error)
    else:
        assert (list(too_long.outputs[0].token_ids), too_long.outputs[0].finish_reason) == ([], "error")
    assert engine.fresh(prompt, STEERED) == expected  # alive, and as before


@pytest.mark.parametrize("at_once", [False, True])
def test_a_prompt_that_is_streamed_in_pieces_is_refused_by_name(
    engine: Engine, prompt: list[int], at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM reads it on without asking again: a steered piece of a stream would be answered unsteered."""
    first, rest = prompt[:40], [*prompt[40:], *engine_offset()]
    expected, beside = engine.fresh([*prompt, *engine_offset()], None), engine.fresh(prompt, STEERED)
    engine.llm.reset_prefix_cache()
    plain = engine.stream([(first, None), (rest, None)], at_once=at_once)
    tokens = [token for one in plain for token in one.outputs[0].token_ids]
    assert tokens[1:] == expected and len(tokens) == 25  # one behind the first piece
    said: list[str] = []
    monkeypatch.setattr(
        "kvsteer_lab.serving.vllm_plugin.logger.warning", lambda form, *parts: said.append(form % parts)
    )
    for pieces in ([(prompt, STEERED)], [(first, None), (prompt[40:], STEERED)], [(first, STEERED), (rest, None)]):
        found = engine.stream(pieces, at_once=at_once)
        reasons = [one.outputs[0].finish_reason for one in found if one.outputs[0].finish_reason]
        assert reasons[-1] == "error" and reasons[0] == ("error" if pieces[0][1] else "length")
        assert sum(len(one.outputs[0].token_ids) for one in found) == (pieces[0][1] is None)  # nothing behind it
        assert said.pop().endswith("which slot is its last isn't known; send it whole.")
    assert engine.fresh(prompt, STEERED) == beside


def test_what_was_edited_is_counted(engine: Engine, prompt: list[int]) -> None:
    names = [f"kvsteer:{name}" for name in ("requests", "edits", "edit_seconds")]
    before = [engine.metric(name) for name in names]
    engine.tokens([prompt, prompt], [STEERED, None])
    after = [engine.metric(name) for name in names]
    assert after[0] - before[0] == 1 and after[1] - before[1] >= 1 and 0 < after[2] - before[2] < 5


def engine_offset() -> list[int]:
    """The offset token of the vectors in this process."""
    from kvsteer_lab.serving.vllm_plugin import catalogue

    return [catalogue().vectors["stepwise"].offset_id]
