"""`kv.backends.Server` against a running `kvsteer serve`: transformers' rows, and refusals that ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_server import KEY, Server

import kvsteer_lab as kv

SHORT = {"max_new_tokens": 20}


@pytest.fixture(scope="module")
def model() -> kv.Model:
    return kv.load("smollm2-135m", dtype=torch.float32)


@pytest.fixture(scope="module")
def vectors(reference_folder: Path) -> Mapping[str, kv.KVVectors]:
    return {name: kv.KVVectors.load(reference_folder / f"{name}.safetensors") for name in ("stepwise", "half")}


@pytest.fixture
def backend(server: Server, vectors: Mapping[str, kv.KVVectors], monkeypatch: pytest.MonkeyPatch) -> kv.backends.Server:
    monkeypatch.setenv("KVSTEER_API_KEY", KEY)
    return kv.backends.Server(server.url, vectors)


def methods(vectors: Mapping[str, kv.KVVectors]) -> list[kv.Intervention]:
    return [
        kv.Nothing(),
        kv.NoOffset(),
        kv.CoTPrompt(),
        kv.ForcedPrefix("Step 1:"),
        kv.CacheSteering(vectors["stepwise"], 0, 4, name="values"),
        kv.CacheSteering(vectors["stepwise"], 0.3, 6, name="both"),
        kv.CacheSteering(vectors["half"], 0, 16, layers=[20, 8, 9, 10], name="some layers"),
        kv.CacheSteering(vectors["stepwise"], 0, 0, name="zero"),
    ]


def test_rows_are_those_of_transformers(
    model: kv.Model, vectors: Mapping[str, kv.KVVectors], backend: kv.backends.Server
) -> None:
    """Steered and unsteered, one kind at a time and mixed."""
    prompts = [one.text for one in kv.tasks.get("tiny-arithmetic").questions("dev", 4, 1)]
    mixed = methods(vectors)
    here = kv.generate(model, prompts, mixed, generation=SHORT)
    for some in ([kv.Nothing()], [mixed[4]], mixed):
        there = kv.generate(model, prompts, some, generation=SHORT, backend=backend)
        labels = {row.intervention for row in there}
        assert list(there.rows) == [row for row in here if row.intervention in labels]
    for label in ("values", "both", "some layers"):
        changed = sum(a.token_ids != b.token_ids for a, b in zip(here.of(label), here.of("baseline"), strict=True))
        print(f"{label}: {changed} of {len(prompts)} texts changed")
        assert changed, f"{label} changes nothing, so equality would show nothing"
    assert [row.token_ids for row in here.of("zero")] == [row.token_ids for row in here.of("baseline")]
    print(f"through the server: {len(here)} of {len(here)} rows equal")


def test_end_tokens_and_stop_strings_are_the_callers(
    model: kv.Model, vectors: Mapping[str, kv.KVVectors], backend: kv.backends.Server
) -> None:
    steered = kv.CacheSteering(vectors["stepwise"], 0, 4)
    free = kv.generate(model, "What is 2 + 3?", steered, generation=SHORT)[0]
    ends: list[dict[str, Any]] = [
        {**SHORT, "eos_token_id": free.token_ids[4]},
        {**SHORT, "eos_token_id": model.n_tokens - 1},  # the checkpoint's own ends nothing then
        {"max_new_tokens": 60},
        {**SHORT, "stop_strings": [free.text[8:12]]},
    ]
    for generation in ends:
        here = kv.generate(model, "What is 2 + 3?", [kv.Nothing(), steered], generation=generation)
        there = kv.generate(model, "What is 2 + 3?", [kv.Nothing(), steered], generation=generation, backend=backend)
        assert there.rows == here.rows, generation
        print(generation, [(len(row.token_ids), row.finish_reason) for row in here])


def test_an_evaluation_is_that_of_transformers(
    model: kv.Model, vectors: Mapping[str, kv.KVVectors], backend: kv.backends.Server, tmp_path: Path
) -> None:
    task, steered = kv.tasks.get("tiny-arithmetic"), kv.CacheSteering(vectors["stepwise"], 0, 4)
    few: dict[str, Any] = dict(n=3, split="dev", generation=SHORT, progress=False)
    here = kv.evaluate(model, task, steered, **few)
    there = kv.evaluate(model, task, steered, backend=backend, out=tmp_path / "run", **few)
    assert there.rows.text.tolist() == here.rows.text.tolist() and there.rows.correct.equals(here.rows.correct)
    assert kv.Run.load(tmp_path / "run").identity.texts["backend"] == {"backend": "server", "model": "smol"}


def test_what_is_refused_asks_for_nothing(
    model: kv.Model,
    vectors: Mapping[str, kv.KVVectors],
    backend: kv.backends.Server,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steered = kv.CacheSteering(vectors["stepwise"], 0, 4, name="steered")
    other = replace(vectors["stepwise"], card=replace(vectors["stepwise"].card, offset_id=7))
    before = server.metrics()["vllm:request_success_total"]
    for method, says in [
        (steered.random_control(0), r"have no name on the server.*named are half, stepwise"),
        (kv.CacheSteering(vectors["stepwise"], 0, 4, heads=[0]), "has single heads, which the server can't add"),
        (kv.CacheSteering(vectors["stepwise"], 0, 4, slot=-2), "edits another slot than the prompt's last"),
        (kv.Together(steered, kv.ForcedPrefix("Step")), "does more than add vectors by name"),
        (kv.HideSlot(), "hides a slot of the cache, which the server can't"),
        (kv.CacheSteering(vectors["stepwise"], 0, 33), "takes coefficients up to 32, not 33"),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, ["One?", "Two?"], [kv.Nothing(), method], generation=SHORT, backend=backend)
    for wrong, says in [
        (replace(backend, vectors={"other": vectors["stepwise"]}), "has no vectors 'other', but half, stepwise"),
        (replace(backend, vectors={"stepwise": other}), "have no name on the server|another offset token"),
        (replace(backend, model="tiny"), "serves no model 'tiny', but smol"),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, "One?", replace(steered, vectors=next(iter(wrong.vectors.values()))), backend=wrong)
    for generation, says in [
        ({"do_sample": True}, "do_sample can't be done by the server"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 can't be done by the server"),
        ({"max_new_tokens": 600}, r"need 6\d\d tokens, and the server at .* has a context of 512"),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, "One?", steered, generation=generation, backend=backend)
    monkeypatch.setenv("KVSTEER_API_KEY", "wrong")
    with pytest.raises(ValueError, match="answered 401"):
        kv.generate(model, "One?", steered, generation=SHORT, backend=replace(backend))
    assert server.metrics()["vllm:request_success_total"] == before
