"""`kv.backends.VLLM`, an engine in this process: transformers' rows, on SmolLM2 and on random models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import random_models
import torch

import kvsteer_lab as kv

SHORT = {"max_new_tokens": 20}
SMALL: Mapping[str, Any] = dict(context=512, cache_gb=0.25, rows=24, eager=True)


@pytest.fixture(scope="module")
def model() -> kv.Model:
    return kv.load("smollm2-135m", dtype=torch.float32)


@pytest.fixture(scope="module")
def vectors(reference_folder: Path) -> kv.KVVectors:
    return kv.KVVectors.load(reference_folder / "stepwise.safetensors")


@pytest.fixture
def backend(environment: None) -> kv.backends.VLLM:
    return kv.backends.VLLM("smollm2-135m", **SMALL)


def methods(vectors: kv.KVVectors, dose: float) -> list[kv.Intervention]:
    steered = kv.CacheSteering(vectors, 0, dose, name="values")
    return [
        kv.Nothing(),
        kv.NoOffset(),
        kv.CoTPrompt(),
        kv.ForcedPrefix("Step 1:"),
        steered,
        kv.CacheSteering(vectors, 0.05 * dose, dose, name="both"),
        kv.CacheSteering(vectors, 0, 2 * dose, layers=[3, 1, 2], name="some layers"),
        kv.CacheSteering(vectors, 0, 2 * dose, heads=[1], name="one head"),
        steered.random_control(0),
        kv.Together(steered, kv.ForcedPrefix("Step 1:")),
        kv.CacheSteering(vectors, 0, 0, name="zero"),
    ]


def compare(model: kv.Model, backend: kv.backends.VLLM, prompts: list[str], given: list[kv.Intervention]) -> int:
    """Rows of one kind at a time and of all kinds mixed; how many steered texts differ from the baseline's."""
    here = kv.generate(model, prompts, given, generation=SHORT)
    for some in ([given[0]], [given[4]], given):
        there = kv.generate(model, prompts, some, generation=SHORT, backend=backend)
        labels = {row.intervention for row in there}
        expected = [row for row in here if row.intervention in labels]
        equal = sum(a.token_ids == b.token_ids for a, b in zip(there, expected, strict=True))
        print(f"{Path(model.name).name}, {len(some)} interventions: {equal} of {len(expected)} rows equal")
        assert list(there.rows) == expected
    plain = [row.token_ids for row in here.of("baseline")]
    return sum(
        row.token_ids != want
        for label in ("values", "both", "some layers")
        for row, want in zip(here.of(label), plain, strict=True)
    )


def test_rows_are_those_of_transformers(model: kv.Model, vectors: kv.KVVectors, backend: kv.backends.VLLM) -> None:
    prompts = [one.text for one in kv.tasks.get("tiny-arithmetic").questions("dev", 4, 1)]
    changed = compare(model, backend, prompts, methods(vectors, 6))
    print(f"steering changes {changed} of {3 * len(prompts)} texts")
    assert changed >= len(prompts)


def test_the_callers_ends_count(model: kv.Model, vectors: kv.KVVectors, backend: kv.backends.VLLM) -> None:
    given = [kv.Nothing(), kv.CacheSteering(vectors, 0, 4)]
    free = kv.generate(model, "What is 2 + 3?", given[1], generation=SHORT)[0]
    for ends in ({"eos_token_id": free.token_ids[4]}, {"eos_token_id": 3}, {"stop_strings": [free.text[8:12]]}):
        generation: dict[str, Any] = {**SHORT, **ends}
        here = kv.generate(model, "What is 2 + 3?", given, generation=generation)
        there = kv.generate(model, "What is 2 + 3?", given, generation=generation, backend=backend)
        assert there.rows == here.rows, generation


def test_a_stored_evaluation_names_the_weights(
    model: kv.Model, vectors: kv.KVVectors, backend: kv.backends.VLLM, tmp_path: Path
) -> None:
    task, steered = kv.tasks.get("tiny-arithmetic"), kv.CacheSteering(vectors, 0, 4)
    few: dict[str, Any] = dict(n=3, split="dev", generation=SHORT, progress=False)
    here = kv.evaluate(model, task, steered, **few)
    there = kv.evaluate(
        kv.load_weightless("smollm2-135m", dtype=torch.float32),
        task,
        steered,
        backend=backend,
        out=tmp_path / "run",
        **few,
    )
    assert there.rows.text.tolist() == here.rows.text.tolist() and there.rows.correct.equals(here.rows.correct)
    about = kv.Run.load(tmp_path / "run").identity.texts["backend"]
    assert about["backend"] == "vllm" and about["weights"] == model.fingerprint


def test_what_vllm_cannot_do_is_refused_by_name(
    model: kv.Model, vectors: kv.KVVectors, backend: kv.backends.VLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvsteer_lab.serving.vllm_plugin import OfflineEngine

    monkeypatch.setattr(OfflineEngine, "decode", lambda *given: pytest.fail("something ran"))
    steered = kv.CacheSteering(vectors, 0, 4, name="steered")
    for method, says in [
        (kv.CacheSteering(vectors, 0, 4, slot=-2, name="before"), "'before' edits another slot than the prompt's last"),
        (kv.HideSlot(), "hides a slot of the cache, which vLLM can't"),
        (kv.CacheEdits([kv.edits.Map(0.5)], "half"), "'half' edits the cache by more than an addition"),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, "Why?", [steered, method], generation=SHORT, backend=backend)
    for generation, says in [
        ({"do_sample": True}, "do_sample can't be done by vLLM"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 can't be done by vLLM"),
        ({"max_new_tokens": 600}, r"need 6\d\d tokens, and vLLM has a context of 512; .* context=6\d\d"),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, "Why?", steered, generation=generation, backend=backend)
    with pytest.raises(ValueError, match="tiny has other weights than smollm2-135m; give the backend the same model"):
        kv.generate(model, "Why?", steered, generation=SHORT, backend=replace(backend, path="tiny"))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_random_models_of_other_shapes(kind: str, environment: None, tmp_path: Path) -> None:
    """Weights that nothing has trained; Gemma's texts cross its window of 8 tokens."""
    hf = random_models.build(kind, hidden_size=128, head_dim=32)
    hf.save_pretrained(tmp_path / kind)
    random_models.tokenizer().save_pretrained(tmp_path / kind)
    model = kv.load(tmp_path / kind, dtype=torch.float32)
    backend = kv.backends.VLLM(tmp_path / kind, **SMALL)
    changed = compare(model, backend, random_models.PROMPTS, methods(random_models.vectors_for(model), 1))
    assert changed >= len(random_models.PROMPTS)


def test_another_engine_takes_the_place_of_the_first(model: kv.Model, backend: kv.backends.VLLM) -> None:
    here = kv.generate(model, "Why?", generation=SHORT)
    assert kv.generate(model, "Why?", generation=SHORT, backend=backend).rows == here.rows
