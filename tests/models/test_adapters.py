"""LoRA adapters and 8-bit weights change what is computed, and leave the edit as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from adapters import with_add_adapter, with_peft
from random_models import PROMPTS, build, newline, vectors_for
from torch import Tensor
from transformers import AutoModelForCausalLM

import kvsteer_lab as kv
from kvsteer_lab.edits.cache import apply
from kvsteer_lab.models.prefill import fill
from kvsteer_lab.models.tokens import pad_left

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
NEW = 8
CK, CV = 1.5, 8.0


def with_merged_adapter(folder: Path) -> Any:
    return with_peft(folder).merge_and_unload()


def with_8_bits(folder: Path) -> Any:
    pytest.importorskip("optimum.quanto", reason="the test of 8-bit weights needs optimum-quanto")
    from transformers import QuantoConfig

    hf = AutoModelForCausalLM.from_pretrained(folder, quantization_config=QuantoConfig(weights="int8"))
    hf.generation_config.eos_token_id = None
    return hf


KINDS: list[Callable[[Path], Any]] = [with_peft, with_add_adapter, with_merged_adapter, with_8_bits]
every_kind = pytest.mark.parametrize("make", KINDS)


def last_slots(model: kv.Model, deltas: Any) -> tuple[Tensor, Tensor]:
    """The last slot of each prompt `[layers, rows, kv_heads, head_dim]`, edited inside the trace."""
    ids, mask = pad_left([model.encode(p) for p in PROMPTS], 0, model.device)
    edit = None if deltas is None else partial(apply, deltas=deltas, lengths=mask.sum(-1).tolist())
    cache = fill(model, ids, mask, edit_cache=edit)
    return torch.stack([x.keys[:, :, -1] for x in cache.layers]), torch.stack(
        [x.values[:, :, -1] for x in cache.layers]
    )


@every_kind
def test_the_edit_in_the_cache_is_the_delta_itself(make: Callable[[Path], Any], folder: Path, tokenizer: Any) -> None:
    model = kv.load(make(folder), tokenizer)
    vectors = vectors_for(model)
    plain = last_slots(model, None)
    edited = last_slots(model, [kv.CacheDelta(CK * vectors.keys, CV * vectors.values)] * len(PROMPTS))
    for before, after, added in zip(plain, edited, (CK * vectors.keys, CV * vectors.values), strict=True):
        torch.testing.assert_close(after - before, added[:, None].expand_as(before), atol=1e-5, rtol=1e-5)
    base = last_slots(kv.load(build("llama"), tokenizer), None)
    assert not torch.allclose(plain[1], base[1], atol=1e-4), "the adapter or the 8 bits must do something"


@every_kind
def test_the_oracles_hold(make: Callable[[Path], Any], folder: Path, tokenizer: Any) -> None:
    theirs = make(folder)
    model = kv.load(theirs, tokenizer)
    vectors = vectors_for(model)
    methods = [kv.CacheSteering(vectors, 0, 0), kv.CacheSteering(vectors, CK, CV, layers=range(4))]
    rows = kv.generate(model, PROMPTS, methods, generation={"max_new_tokens": NEW, "eos_token_id": []})
    zero, real = rows.token_ids[::2], rows.token_ids[1::2]
    assert zero == [plain_generate(theirs, [*model.encode(p), newline(model)]) for p in PROMPTS]
    assert real == [
        reference.steered(theirs, model.encode(p), newline(model), CK * vectors.keys, CV * vectors.values, NEW)
        for p in PROMPTS
    ]
    assert zero != real


def plain_generate(hf: Any, ids: list[int]) -> list[int]:
    out = hf.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=NEW,
        do_sample=False,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("make", [with_peft, with_add_adapter])
def test_an_adapter_changes_the_fingerprint_and_vectors_of_the_base_warn(
    make: Callable[[Path], Any], folder: Path, tokenizer: Any
) -> None:
    base, adapted = kv.load(build("llama"), tokenizer), kv.load(make(folder), tokenizer)
    assert base.fingerprint != adapted.fingerprint
    with pytest.warns(UserWarning, match=r"extracted from other weights \(.*, or another adapter\)"):
        kv.generate(adapted, "fox", kv.CacheSteering(vectors_for(base), 1, 1), generation={"max_new_tokens": 1})


def test_the_caller_s_adapted_model_keeps_its_adapter(folder: Path, tokenizer: Any) -> None:
    theirs = with_peft(folder)
    names = sorted(theirs.state_dict())
    model = kv.load(theirs, tokenizer)
    kv.generate(model, "fox", kv.CacheSteering(vectors_for(model), 1, 1), generation={"max_new_tokens": 2})
    assert sorted(theirs.state_dict()) == names and theirs.active_adapter == "default"
    assert (
        type(theirs).__name__ == "PeftModelForCausalLM"
        and not theirs.base_model.model.model.layers[0].self_attn.q_proj.merged
    )


def test_vectors_are_extracted_with_the_adapter_on(folder: Path, tokenizer: Any) -> None:
    theirs = with_peft(folder)
    model = kv.load(theirs, tokenizer)
    vectors = kv.extract(model, kv.ContrastiveSet.from_texts(["Step 1: add"], ["What?"]), progress=False)
    ids = [[tokenizer(t, add_special_tokens=False).input_ids] for t in ("Step 1: add", "What?")]
    keys, values = reference.mean_difference(theirs, *ids)
    torch.testing.assert_close(vectors.keys, keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vectors.values, values, atol=1e-5, rtol=1e-5)
    with theirs.disable_adapter():
        assert not torch.allclose(reference.mean_difference(theirs, *ids)[1], values, atol=1e-3)
