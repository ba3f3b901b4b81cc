"""Every backend with every kind of intervention: it goes ahead, or says what it can't do before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import random_models

import kvsteer_lab as kv
from kvsteer_lab import interventions
from kvsteer_lab.behaviours.prompting import SystemPrompt
from kvsteer_lab.interventions import OtherOffset

SHORT = {"max_new_tokens": 4}
CHAT = [{"role": "user", "content": "Snow is cold.\nCoal is black.\nWhy?"}]
MODEL = kv.load(random_models.build("llama"), random_models.tokenizer())
VECTORS = random_models.vectors_for(MODEL)
STEERED = kv.CacheSteering(VECTORS, 1, 2)
LAST = kv.edits.Add(VECTORS.keys, VECTORS.values)
BANK = kv.edits.Bank.zeros(MODEL)
CHUNKS = kv.spans.Delimited("\n", before="Why")
SHOT = ({"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"})
STREAM = random_models.activations_for(MODEL)

UNSTEERED: dict[str, kv.Intervention] = {
    "nothing": kv.Nothing(),
    "no offset": kv.NoOffset(),
    "other offset": OtherOffset("."),
    "CoT prompt": kv.CoTPrompt(),
    "CoT prefix": kv.CoTPrefix(),
    "forced prefix": kv.ForcedPrefix("Step"),
    "few-shot": kv.FewShot(SHOT),
    "system prompt": SystemPrompt("Be brief.", "brief"),
    "without a chunk": kv.WithoutChunk(CHUNKS, 0),
    "dose zero": kv.CacheSteering(VECTORS, 0, 0),
    "two prompts": kv.Together(kv.CoTPrompt(), kv.ForcedPrefix("Step")),
}
"""Texts alone: every backend decodes them."""
ADDED: dict[str, tuple[kv.Intervention, str | None]] = {
    "vectors": (STEERED, None),
    "chosen layers": (kv.CacheSteering(VECTORS, 0, 2, layers=[1, 3]), None),
    "chosen heads": (kv.CacheSteering(VECTORS, 0, 2, heads=[1]), "has single heads"),
    "position-free keys": (
        kv.CacheSteering(random_models.vectors_for(MODEL, keys="position_free"), 1, 1),
        "has position-free keys",
    ),
    "random control": (STEERED.random_control(0), "have no name on the server"),
    "sign flip": (kv.controls.sign_flip(STEERED), "have no name on the server"),
    "an addition as an edit": (kv.CacheEdits([LAST], "added"), "does more than add vectors by name"),
    "two steerings": (kv.Together(STEERED, kv.CacheSteering(VECTORS, 0, 1)), "does more than add vectors by name"),
    "steering on a prompt": (kv.Together(STEERED, kv.CoTPrompt()), "does more than add vectors by name"),
    "steering, words forced": (kv.Together(STEERED, kv.ForcedPrefix("Step")), "does more than add vectors by name"),
    "steering, other offset": (kv.Together(STEERED, OtherOffset(".")), "does more than add vectors by name"),
}
"""Additions to the prompt's last slot: only the server, which is told names, refuses some."""
BEYOND: dict[str, tuple[kv.Intervention, str]] = {
    "another slot": (kv.CacheSteering(VECTORS, 0, 1, slot=-2), "edits another slot than the prompt's last"),
    "several slots": (
        kv.CacheEdits([LAST, kv.edits.Add(VECTORS.keys, VECTORS.values, slot=-3)], "two slots"),
        "edits another slot than the prompt's last",
    ),
    "residual stream": (kv.ActivationSteering(STREAM, 1, 1.0), "edits the residual stream"),
    "residual control": (kv.ActivationSteering(STREAM, 1, 1.0).random_control(0), "edits the residual stream"),
    "residual stream without a cache": (
        kv.ActivationSteering(STREAM, 1, 1.0, cache=False, scope="last position"),
        "edits the residual stream",
    ),
    "both": (kv.Together(STEERED, kv.ActivationSteering(STREAM, 1, 1.0)), "edits the residual stream"),
    "hidden slot": (kv.HideSlot(), "hides a slot of the cache"),
    "steered and hidden": (kv.Together(STEERED, kv.HideSlot()), "hides a slot of the cache"),
    "map": (kv.CacheEdits([kv.edits.Map(0.5)]), "edits the cache by more than an addition"),
    "random map": (kv.CacheEdits([kv.edits.Map(0.5)]).random_control(0), "edits the cache by more than an addition"),
    "replace": (kv.CacheEdits([kv.edits.Replace(BANK)]), "edits the cache by more than an addition"),
    "erase": (kv.CacheEdits([kv.edits.Erase(span=kv.spans.Slots(0))]), "hides a slot of the cache"),
    "insert": (kv.CacheEdits([kv.edits.Insert(BANK)]), "inserts slots before the prompt"),
    "every token": (kv.CacheEdits([kv.edits.Map(0.5, every=True)]), "edits every slot that is cached after the prompt"),
    "gated": (
        kv.CacheEdits([kv.edits.Add(VECTORS.keys, VECTORS.values, when=kv.edits.Similar(VECTORS.values, 1, 0.5))]),
        "edits the cache by more than an addition",
    ),
}
"""What none of them can do."""
SETTINGS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.2},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[5]]},
    "suppress_tokens": {"suppress_tokens": [5]},
    "min_new_tokens": {"min_new_tokens": 2},
    "do_sample": {"do_sample": True},
}
BACKENDS: dict[str, tuple[Callable[[], Any], str]] = {
    "llama.cpp": (lambda: kv.backends.LlamaCpp("model.gguf"), "llama.cpp"),
    "vllm": (lambda: kv.backends.VLLM("model"), "vLLM"),
    "server": (lambda: kv.backends.Server("http://127.0.0.1:9", {"stepwise": VECTORS}), "the server"),
    "remote": (lambda: kv.backends.Remote("local"), "nnsight's remote"),
}


class Started(Exception):
    """An engine is made, a server asked or a job sent: what could be refused beforehand has been let through."""


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)

    def start(*_: object, **__: object) -> None:
        raise Started

    for place in (
        "llama_cpp.LlamaEngine",
        "vllm.import_extra",
        "server.httpx.get",
        "nnsight_remote.steer_and_generate",
    ):
        monkeypatch.setattr(f"kvsteer_lab.backends.{place}", start)


def ask(backend: str, method: kv.Intervention | None, generation: dict[str, Any]) -> None:
    kv.generate(MODEL, CHAT, method, generation=generation, backend=BACKENDS[backend][0]())


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kind_is_decoded_or_refused_by_name(backend: str) -> None:
    for what, method in UNSTEERED.items():
        with pytest.raises(Started):
            ask(backend, method, SHORT)
            pytest.fail(what)
    for method, server in ADDED.values():
        if backend == "server" and server is not None:
            with pytest.raises(ValueError, match=server) as refused:
                ask(backend, method, SHORT)
            assert method.label in str(refused.value)
        else:
            with pytest.raises(Started):
                ask(backend, method, SHORT)
    for method, says in BEYOND.values():
        with pytest.raises(ValueError) as refused:
            ask(backend, method, SHORT)
        assert str(refused.value) == (
            f"{method.label!r} {says}, which {BACKENDS[backend][1]} can't; run it without backend=..."
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_setting_is_kept_or_refused_by_name(backend: str) -> None:
    for name, settings in SETTINGS.items():
        if (backend, name) == ("llama.cpp", "do_sample"):  # it draws the same noise
            with pytest.raises(Started):
                ask(backend, None, SHORT | settings)
            continue
        with pytest.raises(ValueError, match=rf"^{name}.* can't be done by {BACKENDS[backend][1]}"):
            ask(backend, None, SHORT | settings)
    with pytest.raises(Started):
        ask(backend, None, {**SHORT, "stop_strings": ["."], "eos_token_id": [5]})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_with_a_second_question_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The letter of a multiple choice is asked for behind the reply, which only transformers does."""
    task = kv.tasks.get("tiny-tracking")
    monkeypatch.setattr(type(task), "closing", "\nThe answer is")
    with pytest.raises(ValueError, match=r"asks a second time, .* which only transformers does"):
        kv.evaluate(MODEL, task, STEERED, n=2, backend=BACKENDS[backend][0](), progress=False)


def test_the_table_has_every_kind_of_intervention() -> None:
    shown = [*UNSTEERED.values(), *(method for method, _ in (*ADDED.values(), *BEYOND.values()))]
    there = {type(part) for method in shown for part in (method, *getattr(method, "parts", ()))}
    public = [getattr(interventions, name) for name in interventions.__all__]
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, kv.Intervention)}
    assert {kind.__name__ for kind in kinds - there} == {"Intervention", "Scaled", "Steering"}  # nothing by themselves
