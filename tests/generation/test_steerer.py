"""The snippet that articles about the method show, on a plain transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import lora, with_add_adapter, with_peft
from portraits import portrait
from random_models import PROMPTS, build, newline, vectors_for
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from unsteerable import CONFIGS

import kvsteer_lab as kv

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def vector_folder(vectors: kv.KVVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `from_pretrained` expects it."""
    return vectors.save(tmp_path_factory.mktemp("vectors") / "vectors.safetensors").parent


def batch(tokenizer: Any, side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts as a padded batch of ids, and its mask."""
    chats = [[{"role": "user", "content": p}] for p in PROMPTS]
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False)
    return encoded.input_ids, encoded.attention_mask


def test_the_articles_snippet(folder: Path, vector_folder: Path, model: kv.Model, vectors: kv.KVVectors) -> None:
    hf, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    steerer = kv.KVSteerer.from_pretrained(str(vector_folder), device="cpu")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[0]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = steerer.steer(
        hf, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], ck=0.3, cv=6, max_new_tokens=12
    )
    ours = kv.generate(model, PROMPTS[0], kv.CacheSteering(vectors, 0.3, 6), generation={"max_new_tokens": 12})
    assert out[0].tolist() == [*inputs["input_ids"][0].tolist(), newline(model), *ours.token_ids[0]]
    assert ours.token_ids != kv.generate(model, PROMPTS[0], generation={"max_new_tokens": 12}).token_ids
    assert tokenizer.decode(out[0], skip_special_tokens=True).endswith(ours.texts[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_comes_back_left_padded(
    side: str, vector_folder: Path, model: kv.Model, vectors: kv.KVVectors
) -> None:
    ids, mask = batch(model.tokenizer, side)
    out = kv.KVSteerer.from_pretrained(vector_folder).steer(model.hf, ids, mask, ck=1.0, cv=6, max_new_tokens=8)
    ours = kv.generate(model, PROMPTS, kv.CacheSteering(vectors, 1.0, 6), generation={"max_new_tokens": 8})
    width = ids.shape[1]
    for row, prompt, new in zip(out.tolist(), PROMPTS, ours.token_ids, strict=True):
        own = model.encode(prompt)
        assert row[width - len(own) : width + 1 + len(new)] == [*own, newline(model), *new]
        assert len(set(row[: width - len(own)]) | set(row[width + 1 + len(new) :])) <= 1, "the rest is padding"


def test_without_a_mask_every_token_counts(vector_folder: Path, model: kv.Model) -> None:
    ids = torch.tensor([model.encode(PROMPTS[0])])
    steerer = kv.KVSteerer.from_pretrained(vector_folder)
    assert torch.equal(
        steerer.steer(model.hf, ids, max_new_tokens=5),
        steerer.steer(model.hf, ids, torch.ones_like(ids), max_new_tokens=5),
    )


def test_zero_is_plain_generation_and_the_defaults_are_the_articles(
    vector_folder: Path, folder: Path, model: kv.Model
) -> None:
    hf = AutoModelForCausalLM.from_pretrained(folder)
    steerer = kv.KVSteerer.from_pretrained(vector_folder)
    ids = torch.tensor([model.encode(PROMPTS[1])])
    offset = torch.cat([ids, torch.tensor([[newline(model)]])], 1)
    plain = hf.generate(offset, attention_mask=torch.ones_like(offset), max_new_tokens=8, do_sample=False)
    assert torch.equal(steerer.steer(hf, ids, ck=0, cv=0, max_new_tokens=8), plain)
    default = steerer.steer(hf, ids, max_new_tokens=8)
    assert torch.equal(default, steerer.steer(hf, ids, ck=0.3, cv=6, max_new_tokens=8))
    assert default.tolist() != plain.tolist()


def test_generation_settings_are_honoured(vector_folder: Path, model: kv.Model) -> None:
    steerer = kv.KVSteerer.from_pretrained(vector_folder)
    ids = torch.tensor([model.encode(PROMPTS[0])])
    by_dict = steerer.steer(model.hf, ids, generation={"max_new_tokens": 3, "eos_token_id": []})
    by_config = steerer.steer(model.hf, ids, generation=GenerationConfig(max_new_tokens=3))
    assert by_dict.shape[1] == ids.shape[1] + 1 + 3
    assert by_config[0].tolist() == by_dict[0].tolist()[: by_config.shape[1]]
    cut = steerer.steer(model.hf, ids, max_new_tokens=2, generation=GenerationConfig(repetition_penalty=1.1))
    assert cut.shape[1] <= ids.shape[1] + 1 + 2, (
        "a config that says nothing of the length leaves max_new_tokens in force"
    )


def test_the_model_is_left_as_it_was(vector_folder: Path, folder: Path, model: kv.Model) -> None:
    hf = AutoModelForCausalLM.from_pretrained(folder).train()
    before = portrait(hf), hf.config.to_dict(), hf.generation_config.to_dict()
    ids, mask = batch(model.tokenizer)
    one = kv.KVSteerer.from_pretrained(vector_folder).steer(hf, ids, mask, max_new_tokens=4)
    assert (portrait(hf), hf.config.to_dict(), hf.generation_config.to_dict()) == before and hf.training
    assert torch.equal(one, kv.KVSteerer.from_pretrained(vector_folder).steer(hf, ids, mask, max_new_tokens=4)), (
        "steering leaves no trace"
    )


@pytest.mark.filterwarnings("ignore:These vectors were extracted")
def test_what_happens_to_the_model_between_two_calls_counts(vector_folder: Path, folder: Path, model: kv.Model) -> None:
    steerer = kv.KVSteerer.from_pretrained(vector_folder)
    ids, mask = batch(model.tokenizer)
    hf = AutoModelForCausalLM.from_pretrained(folder)
    before = steerer.steer(hf, ids, mask, max_new_tokens=8)
    torch.manual_seed(5)
    hf.add_adapter(lora())
    with_adapter = steerer.steer(hf, ids, mask, max_new_tokens=8)
    assert before.tolist() != with_adapter.tolist()
    hf.disable_adapters()
    assert steerer.steer(hf, ids, mask, max_new_tokens=8).tolist() == before.tolist()
    hf.enable_adapters()
    assert steerer.steer(hf, ids, mask, max_new_tokens=8).tolist() == with_adapter.tolist()
    assert steerer.steer(hf.to(torch.bfloat16), ids, mask, max_new_tokens=2).shape[0] == len(ids)


@pytest.mark.filterwarnings("ignore:These vectors were extracted")
def test_a_peft_model_is_steered_like_the_model_inside(vector_folder: Path, tokenizer: Any) -> None:
    ids, mask = batch(tokenizer)
    steerer = kv.KVSteerer.from_pretrained(vector_folder)
    outs = [
        steerer.steer(make(vector_folder), ids, mask, max_new_tokens=8).tolist()
        for make in (with_peft, with_add_adapter)
    ]
    assert outs[0] == outs[1] != steerer.steer(build("llama"), ids, mask, max_new_tokens=8).tolist()


def test_vectors_without_an_offset_are_refused(tmp_path: Path, model: kv.Model) -> None:
    vectors_for(model, offset_id=None).save(tmp_path / "vectors.safetensors")
    with pytest.raises(
        ValueError, match=r"These vectors name no offset token; use kv\.CacheSteering with kv\.generate"
    ):
        kv.KVSteerer.from_pretrained(tmp_path).steer(model.hf, torch.tensor([[5, 6, 7]]))


def test_a_row_without_tokens_is_refused(vector_folder: Path, model: kv.Model) -> None:
    with pytest.raises(ValueError, match="masked out as a whole"):
        kv.KVSteerer.from_pretrained(vector_folder).steer(
            model.hf, torch.tensor([[5, 6], [5, 6]]), torch.tensor([[1, 1], [0, 0]])
        )


def test_vectors_of_another_model_and_a_misspelt_device_are_refused(vector_folder: Path, load_random: Any) -> None:
    with pytest.raises(ValueError, match="These vectors are of a llama with 4 layers"):
        kv.KVSteerer.from_pretrained(vector_folder).steer(load_random("gpt2").hf, torch.tensor([[5, 6, 7]]))
    with pytest.raises(RuntimeError, match="cpuu"):
        kv.KVSteerer.from_pretrained(vector_folder, device="cpuu")


def test_a_model_that_cannot_be_steered_is_refused(vector_folder: Path) -> None:
    kind, settings, reason = CONFIGS["mamba"]
    with pytest.raises(kv.UnsteerableModelError, match=reason):
        kv.KVSteerer.from_pretrained(vector_folder).steer(
            AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings)), torch.tensor([[5, 6, 7]])
        )


# --- what could steer a pad slot ------------------------------------------------------------------------------


def test_one_dimensional_ids_are_refused(model: kv.Model) -> None:
    steerer = kv.KVSteerer(vectors_for(model, offset_id=5))
    ids = torch.tensor(model.encode(PROMPTS[0]))
    for wrong in (ids, ids.tolist(), ids[None, None]):
        with pytest.raises(ValueError, match=r"input_ids must be a tensor \[rows, time\], not .*input_ids\[None\]"):
            steerer.steer(model.hf, wrong, max_new_tokens=2)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1.0, 2.0]], r"input_ids must be token ids, whole numbers, not torch\.float32"),
        ([[1, 10_000]], r"input_ids hold 1 to 10000, but this model has tokens 0 to \d+; pass the ids of its own"),
        ([[1, -1]], r"input_ids hold -1 to 1, but this model has tokens 0 to \d+"),
    ],
)
def test_ids_that_are_no_tokens(ids: Any, message: str, model: kv.Model, vectors: kv.KVVectors) -> None:
    with pytest.raises(ValueError, match=message):
        kv.KVSteerer(vectors).steer(model.hf, torch.tensor(ids), ck=0, cv=1)


def test_several_rows_need_their_mask(model: kv.Model) -> None:
    steerer = kv.KVSteerer(vectors_for(model, offset_id=5))
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
    with pytest.raises(ValueError, match="Several rows need attention_mask, which tells padding from text"):
        steerer.steer(model.hf, ids, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"attention_mask is \[2, 2\], but input_ids are \[2, 3\]"):
        steerer.steer(model.hf, ids, torch.ones(2, 2), max_new_tokens=2)
    steered = steerer.steer(model.hf, ids, torch.tensor([[1, 1, 1], [1, 1, 0]]), max_new_tokens=2)
    alone = steerer.steer(model.hf, ids[1:, :2], max_new_tokens=2)
    assert steered[1, 1:].tolist() == alone[0].tolist()


def test_a_pad_at_the_end_of_a_prompt_without_a_mask_is_said(model: kv.Model) -> None:
    steerer = kv.KVSteerer(vectors_for(model, offset_id=5))
    with pytest.warns(UserWarning, match="ends with a pad token and has no attention_mask, so the pad's slot is"):
        steerer.steer(model.hf, torch.tensor([[5, 6, 0]]), max_new_tokens=1)
