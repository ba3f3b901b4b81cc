"""What else a request asks of a server of our own: a prompt, how many tokens, how they are chosen, what ends them.

OpenAI's fields and some of vLLM's, under their names. A field that isn't known is refused unless its value asks for
nothing: an answer that ignores what was asked for would be another experiment.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .._util.json import first_fault, read_json
from .._util.text import visible
from ..generation.settings import Settings, end_tokens, resolve
from ..models.model import Model
from ..models.prompts import as_chat, check_text, render
from ..models.tokens import encode
from .admission import Refusal
from .request import KEY, SteeringRequest

MOST_CHOICES = 16
_IDLE = frozenset("user metadata store service_tier safety_identifier prompt_cache_key parallel_tool_calls".split())
"""What changes no text."""
_COLDEST = 0.01  # a lower temperature would make logits infinite
_Count = Annotated[int, Field(ge=1, lt=2**31)]
_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Stop = Annotated[str, Field(min_length=1, max_length=200)]


class StreamOptions(BaseModel):
    """Whether the last piece of a stream tells the number of tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = False


class Completion(BaseModel):
    """A request's fields, without `kv_steering`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[_Token] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Literal[1] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[_Token], Field(max_length=256)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Attributes:
        prompt_ids: token ids.
        steering: what is added to the last of them; `None`: nothing, and no offset token is read.
        settings: how tokens are chosen and what ends them.
        n: how many texts.
        seed: of their noise; the same seed gives steered and unsteered texts the same noise.
        chat: whether it came as a chat.
        stream: whether tokens are sent as they come.
        include_usage: whether a stream ends with the number of tokens.
        return_token_ids: whether ids are sent.
    """

    prompt_ids: tuple[int, ...]
    steering: SteeringRequest | None
    settings: Settings
    n: int
    seed: int
    chat: bool
    stream: bool
    include_usage: bool
    return_token_ids: bool


def read_completion(
    body: bytes, model: Model, served: str, room: int, *, chat: bool, tails: Mapping[str, int]
) -> Asked:
    """A body that `Admission` has let through, as a request that can be answered.

    Args:
        body: JSON.
        model: renders, tokenises, and has the end tokens.
        served: the name that clients may give the model.
        room: tokens of prompt, offset and reply together.
        chat: whether it holds messages.
        tails: by vectors' names, how many tokens are read behind a steered prompt.

    Raises:
        Refusal: anything that can't be done as asked, in one sentence meant for the client.
    """
    try:
        value = read_json(body, what="The request's body")
        if not isinstance(value, dict):
            raise ValueError("The request's body must be a JSON object.")
        extra = value.pop("vllm_xargs", None) or {}
        asked = Completion.model_validate(value)
        _refuse_unknown(asked)
        if asked.model not in (None, served):
            raise Refusal(404, f"This server has no model {visible(asked.model[:64])!r}, but {served!r}.")
        text = extra.get(KEY) if isinstance(extra, dict) else None
        steering = None if text is None else SteeringRequest.model_validate_json(text)
        ids = _prompt_ids(asked, model, chat)
        left = room - len(ids) - (0 if steering is None else tails[steering.vectors])
        most = asked.max_completion_tokens or asked.max_tokens or (left if chat else 16)
        if left < 1 or most > left:
            raise ValueError(
                f"The prompt has {len(ids)} tokens and the reply may have {most}, but this server has room for {room};"
                " shorten the prompt, lower max_tokens, or start the server with a larger --context."
            )
        settings = _settings(asked, model, most, chat)
    except ValidationError as error:
        fault = visible(first_fault(error).removesuffix("."), one_line=True)[:300]
        raise Refusal(400, f"The request can't be read: {fault}.") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, visible(error, one_line=True)[:500]) from error
    options = asked.stream_options or StreamOptions()
    return Asked(
        prompt_ids=tuple(ids),
        steering=steering,
        settings=settings,
        n=asked.n or 1,
        seed=secrets.randbits(62) if asked.seed is None else asked.seed,
        chat=chat,
        stream=bool(asked.stream),
        include_usage=bool(options.include_usage),
        return_token_ids=bool(asked.return_token_ids),
    )


def _refuse_unknown(asked: Completion) -> None:
    for name, value in (asked.model_extra or {}).items():
        nothing = value is None or value is False or value in ([], {}, "") or (value == 0 and value is not False)
        if name not in _IDLE and not nothing:
            raise ValueError(f"This server has no {visible(name[:64], one_line=True)!r}; leave it out.")


def _prompt_ids(asked: Completion, model: Model, chat: bool) -> list[int]:
    if chat:
        if not asked.messages or asked.prompt is not None:
            raise ValueError("Give messages and no prompt.")
        return encode(model.tokenizer, render(model.tokenizer, as_chat(asked.messages)))
    if not asked.prompt or asked.messages is not None:
        raise ValueError("Give one prompt and no messages.")
    if isinstance(asked.prompt, str):
        return list(model.tokenizer(check_text(asked.prompt, "The prompt")).input_ids)
    if max(asked.prompt) >= model.n_tokens:
        raise ValueError(f"The prompt has token {max(asked.prompt)}; this model has tokens 0 to {model.n_tokens - 1}.")
    return list(asked.prompt)


def _settings(asked: Completion, model: Model, most: int, chat: bool) -> Settings:
    ends = set() if asked.ignore_eos else set(end_tokens(model, None, chat=chat))
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    wanted: dict[str, Any] = {
        "max_new_tokens": most,
        "eos_token_id": sorted(ends | set(asked.stop_token_ids or ())),
        "stop_strings": stop,
    }
    temperature = 1.0 if asked.temperature is None else asked.temperature
    if temperature > 0:
        wanted |= {"do_sample": True, "temperature": max(temperature, _COLDEST), "top_k": max(asked.top_k or 0, 0)}
        wanted |= {"top_p": 1.0 if asked.top_p is None else asked.top_p, "min_p": asked.min_p or None}
    return resolve(model, wanted, chat=chat)
