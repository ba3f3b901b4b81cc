"""How texts are generated: what may be asked for, what ends a text, and the processors that sampling needs.

What the caller asks for goes first, then the checkpoint's own generation settings, then transformers' defaults (for
sampling: the 50 likeliest tokens, `top_k=50`). All of it is resolved here, once: while the model decodes, its own
generation settings are set aside.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
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
from .stopping import StopStrings, cut, next_question

_ALLOWED = frozenset(
    "max_new_tokens min_new_tokens do_sample temperature top_k top_p min_p "
    "repetition_penalty no_repeat_ngram_size bad_words_ids suppress_tokens eos_token_id stop_strings".split()
)
_WARPERS = ("temperature", "top_k", "top_p", "min_p")
_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
"""What transformers takes where neither the caller nor the checkpoint says anything."""
_CARRIED = ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
"""What a checkpoint's own settings may say about which tokens are chosen, as well as the warpers."""
_NEUTRAL: dict[str, Any] = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0}
_NEUTRAL |= {"guidance_scale": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "penalty_alpha": 0.0}
_FOREIGN = (
    "guidance_scale sequence_bias forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty "
    "encoder_repetition_penalty watermarking_config penalty_alpha dola_layers"
).split()
"""What would change the texts of a checkpoint that sets it, and can't be done on this path."""
_FOREIGN_SAMPLING = ("typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
_APART = ("do_sample", "eos_token_id", "max_new_tokens", "stop_strings", *_WARPERS)
"""What has a place of its own in `Settings`."""
_SILENT = (
    "transformers_version _from_model_config pad_token_id bos_token_id decoder_start_token_id use_cache "
    "cache_implementation cache_config output_scores output_logits output_attentions output_hidden_states "
    "return_dict_in_generate early_stopping length_penalty remove_invalid_values max_length min_length"
).split()
"""What a `GenerationConfig` may hold without a consequence for one text a row."""


@dataclass(frozen=True)
class Settings:
    """Everything that decoding needs besides the rows.

    Attributes:
        config: what was asked for and what the checkpoint itself sets; greedy, for noise is added by `SharedNoise`.
        max_new_tokens: per row.
        eos: token ids that end a text.
        pad: fills finished rows.
        sample: whether texts are sampled.
        warpers: temperature, top-k, top-p and min-p, as asked for, or the checkpoint's own, or transformers' defaults.
        stop: texts that end a reply.
    """

    config: GenerationConfig
    max_new_tokens: int
    eos: frozenset[int]
    pad: int
    sample: bool
    warpers: LogitsProcessorList
    stop: StopStrings

    def reply_of(self, ids: Sequence[int]) -> list[int]:
        """A row's own ids: up to its first end token, or to the token that completes a stop string; either is kept.

        Args:
            ids: new tokens of the row, with padding behind its end.

        >>> import kvsteer_lab as kv
        >>> settings = resolve(kv.load("tiny"), None, chat=True)
        >>> settings.reply_of([5, 6, *settings.eos, settings.pad])[:2]
        [5, 6]
        """
        return self.stop.cut(cut(ids, self.eos))


def resolve(model: Model, generation: Mapping[str, Any] | GenerationConfig | None, *, chat: bool) -> Settings:
    """Settings from what the caller asks for: greedy and at most 128 new tokens unless told otherwise.

    Args:
        model: the model that runs.
        generation: settings by name, or transformers' own object.
        chat: whether prompts are chats, which end at the end of a turn.

    Returns:
        The settings.

    Raises:
        ValueError: a setting that is unknown or that the one path can't honour (beams, other caches), asked for or the
            checkpoint's own.

    >>> import kvsteer_lab as kv
    >>> resolve(kv.load("tiny"), {"max_new_tokens": 8}, chat=True).max_new_tokens
    8
    """
    asked = asked_for(generation)
    unknown = sorted(asked.keys() - _ALLOWED)
    if unknown:
        raise ValueError(f"generation can't set {', '.join(unknown)}; it takes {', '.join(sorted(_ALLOWED))}.")
    new = _whole(asked.get("max_new_tokens", 128))
    if new is None or new < 1:
        raise ValueError(f"max_new_tokens must be a whole number of at least 1, not {asked['max_new_tokens']!r}.")
    sample = bool(asked.get("do_sample", False))
    idle = [name for name in _WARPERS if name in asked]
    if idle and "do_sample" not in asked:
        warnings.warn(
            f"{' and '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing in greedy decoding; add"
            " 'do_sample': True to generation.",
            stacklevel=4,
        )
    own = model.hf.generation_config
    _refuse_foreign(own, sample)
    eos = end_tokens(model, asked.get("eos_token_id"), chat=chat)
    pad = model.pad_id if model.tokenizer is not None else (min(eos) if eos else 0)
    kept = {k: v for k, v in asked.items() if k not in _APART}
    for name in _CARRIED:
        value = getattr(own, name, None)
        if name not in kept and value is not None and value != _NEUTRAL.get(name):
            kept[name] = value
    # An end token that the vocabulary doesn't have: generate needs one.
    never = model.hf.config.get_text_config(decoder=True).vocab_size
    path: dict[str, Any] = dict(
        do_sample=False, use_cache=True, num_beams=1, num_return_sequences=1, return_dict_in_generate=False
    )
    config = GenerationConfig(max_new_tokens=new, pad_token_id=pad, eos_token_id=sorted(eos) or [never], **path, **kept)
    warpers = _warpers(model, asked) if sample else LogitsProcessorList()
    stop = StopStrings(model.tokenizer, stop_strings(model, asked.get("stop_strings"), chat=chat))
    return Settings(config, new, eos, pad, sample, warpers, stop)


def end_tokens(model: Model, asked: int | Sequence[int] | None, *, chat: bool) -> frozenset[int]:
    """What ends a text: the model's own list, the tokenizer's EOS, and the token that closes a chat turn.

    Args:
        model: the model that runs.
        asked: the caller's own end tokens, which replace all others.
        chat: whether prompts are chats.

    Returns:
        Token ids; empty: only `max_new_tokens` ends a text.

    >>> import kvsteer_lab as kv
    >>> sorted(end_tokens(kv.load("tiny"), [7], chat=True))
    [7]
    """
    if asked is not None:
        return frozenset(int(token) for token in ([asked] if isinstance(asked, int | Integral) else asked))
    own = getattr(model.hf.generation_config, "eos_token_id", None)
    found = set([own] if isinstance(own, Integral) else own if own is not None else [])
    if model.tokenizer is not None:
        found.add(getattr(model.tokenizer, "eos_token_id", None))
        if chat:
            found.add(_end_of_turn(model.tokenizer))
    return frozenset(int(t) for t in found if t is not None)


def stop_strings(model: Model, asked: str | Sequence[str] | None, *, chat: bool) -> tuple[str, ...]:
    """Texts that end a reply: the caller's, or else the checkpoint's own and, of a template in plain text, the words
    with which the next question begins, for base models run on into it.

    Args:
        model: the model that runs.
        asked: the caller's own, which replace all others; an empty list: none.
        chat: whether prompts are chats.

    Returns:
        The texts.

    Raises:
        ValueError: something else than texts, or an empty text.

    >>> import kvsteer_lab as kv
    >>> stop_strings(kv.load("tiny"), ["Question:"], chat=True), stop_strings(kv.load("tiny"), None, chat=True)
    (('Question:',), ())
    """
    if asked is not None:
        own = (asked,) if isinstance(asked, str) else tuple(asked)
        if not all(isinstance(text, str) and text for text in own):
            raise ValueError(f"stop_strings are texts such as ['\\nQuestion:'], none of them empty, not {asked!r}.")
        if own and model.tokenizer is None:
            raise ValueError("stop_strings need a tokenizer, and the model was loaded without one.")
        return own
    theirs = getattr(model.hf.generation_config, "stop_strings", None) or ()
    return (*([theirs] if isinstance(theirs, str) else theirs), *(next_question(model.tokenizer) if chat else ()))


def _end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the template writes after an assistant's message (Gemma's <end_of_turn>, say)."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "kvsteer"}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template that refuses this chat has no end of turn to tell
        return None
    after = tokenizer(text.rpartition("kvsteer")[2].lstrip(), add_special_tokens=False).input_ids
    return after[0] if after and after[0] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder) else None


def asked_for(generation: Mapping[str, Any] | GenerationConfig | None) -> dict[str, Any]:
    """What the caller set, without defaults.

    Args:
        generation: settings by name, or transformers' own object, `model.hf.generation_config` say.

    Returns:
        Settings by name. Of an object, what has no consequence for one text a row is left out, and so are settings of
        sampling where it doesn't sample.

    >>> asked_for({"max_new_tokens": 8, "top_k": None})
    {'max_new_tokens': 8}
    """
    if isinstance(generation, GenerationConfig):
        default = GenerationConfig().to_dict()
        ones = {"num_beams": 1, "num_return_sequences": 1, "num_beam_groups": 1}
        asked = {
            k: v
            for k, v in generation.to_dict().items()
            if v is not None and v != default.get(k) and k not in _SILENT and v != ones.get(k) and v != _NEUTRAL.get(k)
        }
        return asked if asked.get("do_sample") else {k: v for k, v in asked.items() if k not in _WARPERS}
    return {k: v for k, v in (generation or {}).items() if v is not None}


def _refuse_foreign(own: GenerationConfig, sample: bool) -> None:
    """Refuse a checkpoint whose own settings would change its texts in a way that this path can't."""
    for name in (*_FOREIGN, *(_FOREIGN_SAMPLING if sample else ())):
        value = getattr(own, name, None)
        if value is not None and value != _NEUTRAL.get(name):
            raise ValueError(
                f"The checkpoint's own generation settings say {name}={value!r}, which can't be done here; set"
                f" model.hf.generation_config.{name} = None to go on without it."
            )


def _whole(value: Any) -> int | None:
    """A whole number, numpy's included; `None` for anything else."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _warpers(model: Model, asked: Mapping[str, Any]) -> LogitsProcessorList:
    """As transformers builds them, in its order."""
    own = model.hf.generation_config
    value: dict[str, Any] = {}
    for name in _WARPERS:
        theirs = getattr(own, name, None)
        value[name] = asked.get(name, _DEFAULTS.get(name) if theirs is None else theirs)
    if not float(value["temperature"]) > 0:
        raise ValueError(
            f"temperature must be above 0, not {value['temperature']}; leave do_sample out for greedy texts."
        )
    warpers = LogitsProcessorList()
    if value["temperature"] != 1.0:
        warpers.append(TemperatureLogitsWarper(float(value["temperature"])))
    if value["top_k"]:
        warpers.append(TopKLogitsWarper(top_k=int(value["top_k"])))
    if value["top_p"] < 1.0:
        warpers.append(TopPLogitsWarper(top_p=float(value["top_p"])))
    if value["min_p"]:
        warpers.append(MinPLogitsWarper(min_p=float(value["min_p"])))
    return warpers
