"""nnsight's remote execution, simulated in this process: the same vectors and tokens, with weights and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import random_models
import torch
from sweep_plans import same_rows

import kvsteer_lab as kv
from kvsteer_lab.models.rotary import find_rotary
from kvsteer_lab.models.weightless import load_weightless, narrow_twin

PROMPTS = ["Ann has 3 coins.", "Bob finds 12 apples and 4 pears. How many?"]
SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def pairs() -> kv.ContrastiveSet:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    return kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)


@pytest.mark.parametrize("keys", ["post_rope", "position_free"])
@pytest.mark.parametrize("weightless", [False, True])
def test_vectors_extracted_elsewhere_are_the_same(pairs: kv.ContrastiveSet, keys: str, weightless: bool) -> None:
    here = kv.extract(kv.load("tiny"), pairs, keys=keys, progress=False)  # type: ignore[arg-type]
    model = load_weightless("tiny") if weightless else kv.load("tiny")
    there = kv.extract(model, pairs, keys=keys, remote="local", progress=False)  # type: ignore[arg-type]
    assert torch.allclose(here.keys, there.keys, atol=1e-5) and torch.allclose(here.values, there.values, atol=1e-5)
    assert here.values.norm() > 0.1 and there.card.fingerprint.startswith("unread-" if weightless else "2-")


@pytest.mark.parametrize("weightless", [False, True])
def test_tokens_steered_and_not_are_the_same(pairs: kv.ContrastiveSet, weightless: bool) -> None:
    model = kv.load("tiny")
    vectors = kv.extract(model, pairs, progress=False)
    methods = [kv.Nothing(), kv.NoOffset(), kv.CacheSteering(vectors, 0, 3), kv.CacheSteering(vectors, 0.2, 2)]
    here = kv.generate(model, PROMPTS, methods, generation=SHORT)
    other = load_weightless("tiny") if weightless else model
    there = kv.generate(other, PROMPTS, methods, generation=SHORT, backend=kv.backends.Remote("local", batch_size=3))
    assert [(r.intervention, r.token_ids, r.text, r.finish_reason) for r in there] == [
        (r.intervention, r.token_ids, r.text, r.finish_reason) for r in here
    ]
    assert here.of(methods[2].label)[0].text != here.of("baseline")[0].text


def test_an_evaluation_is_stored_with_where_it_ran(pairs: kv.ContrastiveSet, tmp_path: Path) -> None:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), 0, 2)
    few = dict(n=3, split="dev", generation=SHORT, progress=False)
    here = kv.evaluate(model, task, steering, **few)  # type: ignore[arg-type]
    there = kv.evaluate(model, task, steering, backend=kv.backends.Remote(), out=tmp_path / "run", **few)  # type: ignore[arg-type]
    assert same_rows(here, there)
    assert kv.Run.load(tmp_path / "run").identity.texts["backend"] == {"backend": "nnsight", "where": "local"}
    with pytest.raises(ValueError, match="holds another run: backend"):
        kv.evaluate(model, task, steering, out=tmp_path / "run", **few)  # type: ignore[arg-type]


def test_what_cannot_be_sent_is_refused_by_name(pairs: kv.ContrastiveSet) -> None:
    model = kv.load("tiny")
    vectors = kv.extract(model, pairs, progress=False)
    remote = kv.backends.Remote()
    for method, says in [
        (kv.CacheSteering(vectors, 0, 2, slot=0, name="first"), "'first' edits another slot than the prompt's last"),
        (kv.HideSlot(), "hides a slot of the cache, which nnsight's remote can't"),
        (kv.CacheEdits([kv.edits.Map(0.5, every=True)], "half"), "edits every slot that is cached after"),
        (kv.CacheEdits([kv.edits.Map(0.5)], "half"), "'half' edits the cache by more than an addition"),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, PROMPTS, method, backend=remote)
    with pytest.raises(ValueError, match=r"do_sample can't be done by nnsight's remote"):
        kv.generate(model, PROMPTS, generation={"do_sample": True}, backend=remote)
    with pytest.raises(ValueError, match=r"repetition_penalty=1.5 can't be done"):
        kv.generate(model, PROMPTS, generation={"repetition_penalty": 1.5}, backend=remote)
    with pytest.raises(ValueError, match="remote must say where"):
        kv.extract(model, pairs, remote=False)
    with pytest.raises(ValueError, match=r"<class .*VLLM'> is no backend; make one from kv\.backends"):
        kv.generate(model, "Why?", backend=kv.backends.VLLM)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'vllm' is no backend"):
        kv.generate(model, PROMPTS, backend="vllm")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "qwen3", "cohere", "smollm3", "phi3, half rotated"])
def test_shapes_and_rotation_need_no_weights(family: str, tmp_path: Path) -> None:
    model = kv.load(random_models.build(family), random_models.tokenizer())
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    found = load_weightless(tmp_path)
    assert found.shape == model.shape and found.hf.device.type == "meta"
    own, twin = find_rotary(model), find_rotary(narrow_twin(found))
    assert own.modes == twin.modes
    at = torch.tensor([3, 41])
    for layer, mode in enumerate(own.modes):
        if mode != "none":
            for a, b in zip(own.angles(at, layer, mode), twin.angles(at, layer, mode), strict=True):
                assert torch.allclose(a, b, atol=1e-6)


def test_shapes_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    model = kv.load(random_models.build("gpt2"), random_models.tokenizer())
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"can't be told without its weights; load it with kv.load\.$"):
        load_weightless(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="Cannot read the config and tokenizer of"):
        load_weightless(tmp_path)
