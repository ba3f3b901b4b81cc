"""How texts are generated: what may be asked for, what ends a text, and the processors that sampling needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..models.model import Model
from ..models.prompts import pad_token

_ALLOWED = frozenset(
    "max_new_tokens min_new_tokens do_sample temperature top_k top_p min_p "
    "repetition_penalty no_repeat_ngram_size bad_words_ids suppress_tokens eos_token_id".split()
)
_WARPERS = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Settings:
    """Everything that decoding needs besides the rows.

    Attributes:
        config: given to `model.generate`; greedy, for noise is added by `SharedNoise`.
        max_new_tokens: per row.
        eos: token ids that end a text.
        pad: fills finished rows.
        sample: whether texts are sampled.
        warpers: temperature, top-k, top-p and min-p, as asked for or as the model's own defaults.
    """

    config: GenerationConfig
    max_new_tokens: int
    eos: frozenset[int]
    pad: int
    sample: bool
    warpers: LogitsProcessorList

    @property
    def reads_ids(self) -> bool:
        """Whether the next token depends on which ids stand side by side, padding included."""
        return bool(self.config.no_repeat_ngram_size or self.config.bad_words_ids)


def resolve(model: Model, generation: Mapping[str, Any] | GenerationConfig | None, *, chat: bool) -> Settings:
    """Settings from what the caller asks for: greedy and at most 128 new tokens unless told otherwise.

    Raises:
        ValueError: a setting that is unknown or that the one path can't honour (beams, other caches).
    """
    asked = asked_for(generation)
    unknown = sorted(asked.keys() - _ALLOWED)
    if unknown:
        raise ValueError(f"generation can't set {', '.join(unknown)}; it takes {', '.join(sorted(_ALLOWED))}.")
    new = asked.get("max_new_tokens", 128)
    if not isinstance(new, int) or new < 1:
        raise ValueError(f"max_new_tokens must be a whole number of at least 1, not {new!r}.")
    sample = bool(asked.get("do_sample", False))
    eos = end_tokens(model, asked.get("eos_token_id"), chat=chat)
    pad = pad_token(model.tokenizer) if model.tokenizer is not None else (min(eos) if eos else 0)
    kept = {k: v for k, v in asked.items() if k not in ("do_sample", "eos_token_id", "max_new_tokens", *_WARPERS)}
    # What is left at None, generate takes from the model's own generation config: its end tokens, its beams.
    never = model.hf.config.get_text_config(decoder=True).vocab_size
    path: dict[str, Any] = dict(
        do_sample=False, use_cache=True, num_beams=1, num_return_sequences=1, return_dict_in_generate=False
    )
    config = GenerationConfig(max_new_tokens=new, pad_token_id=pad, eos_token_id=sorted(eos) or [never], **path, **kept)
    warpers = _warpers(model, asked) if sample else LogitsProcessorList()
    return Settings(config, new, eos, pad, sample, warpers)


def end_tokens(model: Model, asked: int | list[int] | None, *, chat: bool) -> frozenset[int]:
    """What ends a text: the model's own list, the tokenizer's EOS, and the token that closes a chat turn."""
    if asked is not None:
        return frozenset([asked] if isinstance(asked, int) else asked)
    own = getattr(model.hf.generation_config, "eos_token_id", None)
    found = set([own] if isinstance(own, int) else own or [])
    if model.tokenizer is not None:
        found.add(getattr(model.tokenizer, "eos_token_id", None))
        if chat:
            found.add(_end_of_turn(model.tokenizer))
    return frozenset(int(t) for t in found if t is not None)


def _end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the template writes behind an assistant's message (Gemma's <end_of_turn>, say)."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "kvsteer"}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template that refuses this chat has no end of turn to tell
        return None
    after = tokenizer(text.rpartition("kvsteer")[2].lstrip(), add_special_tokens=False).input_ids
    return after[0] if after and after[0] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder) else None


def asked_for(generation: Mapping[str, Any] | GenerationConfig | None) -> dict[str, Any]:
    """What the caller set, without defaults."""
    if isinstance(generation, GenerationConfig):
        default = GenerationConfig().to_dict()
        own = ("transformers_version", "pad_token_id", "bos_token_id")
        return {k: v for k, v in generation.to_dict().items() if v is not None and v != default.get(k) and k not in own}
    return {k: v for k, v in (generation or {}).items() if v is not None}


def _warpers(model: Model, asked: Mapping[str, Any]) -> LogitsProcessorList:
    own = model.hf.generation_config
    value = {name: asked.get(name, getattr(own, name, None)) for name in _WARPERS}
    warpers = LogitsProcessorList()
    if value["temperature"] not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(float(value["temperature"])))
    if value["top_k"]:
        warpers.append(TopKLogitsWarper(top_k=int(value["top_k"])))
    if value["top_p"] not in (None, 1.0):
        warpers.append(TopPLogitsWarper(top_p=float(value["top_p"])))
    if value["min_p"]:
        warpers.append(MinPLogitsWarper(min_p=float(value["min_p"])))
    return warpers
