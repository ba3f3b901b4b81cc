"""`kvsteer/MODEL` among the models of Inspect, in this process; what is asked together is answered in one batch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._util.extras import import_extra
from ..generation.generate import generate_all
from ..generation.outputs import Generation
from ..tasks.base import Chat
from ..tasks.traces.http_request import import_anyio
from .steering_arguments import MAX_NEW_TOKENS, read_arguments, refuse_unknown

_ARGUMENTS = "vectors ck cv layers slot offset name control device dtype batch_size".split()
_REFUSED = (
    "best_of frequency_penalty presence_penalty logit_bias num_choices logprobs top_logprobs prompt_logprobs"
    " response_schema"
).split()
"""Settings of Inspect that would change an answer and can't be honoured."""
_TOGETHER = 0.02
"""Seconds that the first request waits for others."""


@dataclass(eq=False)
class _Asked:
    """One request, and its answer."""

    chat: Chat
    settings: str
    seed: int
    answer: Generation | None = None


class InspectModel:
    """What Inspect asks: chats, one at a time, many at once. `register_inspect` adds Inspect's own base class."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: Any = None,
        **model_args: Any,
    ) -> None:
        refuse_unknown(model_args, _ARGUMENTS)
        options = {**dict.fromkeys(_ARGUMENTS), "slot": -1, "offset": "\n", "batch_size": 32, **model_args}
        self.rows = options.pop("batch_size")
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise ValueError(f"batch_size is {self.rows!r}; it must be a whole number of at least 1.")
        self.steered = read_arguments(model_name, **options)
        super().__init__(model_name, base_url, api_key, [], config)  # type: ignore[call-arg]
        self._turn = import_extra("anyio", "inspect").Lock()
        self._waiting: list[_Asked] = []
        self._times: Counter[tuple[str, str]] = Counter()

    def max_connections(self) -> int:
        """As many requests at once as make a batch."""
        return int(self.rows)

    async def generate(self, input: list[Any], tools: list[Any], tool_choice: Any, config: Any) -> Any:
        """Answer a chat; equal requests that sample (epochs) get different noise.

        Raises:
            ValueError: tools, parts that aren't text, or settings that can't be honoured.
        """
        anyio, asked = import_extra("anyio", "inspect"), self._read(input, tools, config)
        self._waiting.append(asked)
        try:
            async with self._turn:
                await anyio.sleep(_TOGETHER)
                if asked.answer is None:
                    await self._answer(asked)
        finally:
            if asked in self._waiting:
                self._waiting.remove(asked)
        return self._output(asked)

    async def _answer(self, asked: _Asked) -> None:
        """Answer a request and those that wait with the same settings; alone, if one of them is refused."""
        like = [a for a in self._waiting if (a.settings, a.seed) == (asked.settings, asked.seed) and a is not asked]
        batch = [asked, *like[: self.rows - 1]]
        run = partial(
            generate_all,
            self.steered.model,
            interventions=self.steered.intervention,
            offset=self.steered.offset,
            generation=json.loads(asked.settings),
            seed=asked.seed,
            batch_size=self.rows,
        )
        in_thread = import_extra("anyio.to_thread", "inspect").run_sync
        try:
            texts = await in_thread(run, [a.chat for a in batch])
        except ValueError:
            batch = [asked]
            texts = await in_thread(run, [asked.chat])
        for a, text in zip(batch, texts, strict=True):
            a.answer = text
            self._waiting.remove(a)

    def _read(self, messages: list[Any], tools: list[Any], config: Any) -> _Asked:
        """A request in this library's terms."""
        if tools:
            raise ValueError("kvsteer answers without tools; choose a task or solver that uses none.")
        if asked := [name for name in _REFUSED if getattr(config, name, None) not in (None, False, 1)]:
            raise ValueError(f"kvsteer can't honour {', '.join(asked)}; leave it out.")
        chat = [{"role": m.role, "content": _text_of(m)} for m in messages]
        sampling = {k: v for k in ("temperature", "top_p", "top_k") if (v := getattr(config, k)) is not None}
        sample = sampling.get("temperature", 1.0 if sampling else 0.0) > 0
        settings = {"max_new_tokens": config.max_tokens or MAX_NEW_TOKENS, "do_sample": sample}
        settings |= (sampling if sample else {}) | ({"stop_strings": config.stop_seqs} if config.stop_seqs else {})
        key = json.dumps(chat), json.dumps(settings, sort_keys=True)
        self._times[key] += 1
        return _Asked(chat, key[1], (config.seed or 0) + (self._times[key] - 1 if sample else 0))

    def _output(self, asked: _Asked) -> Any:
        """The answer in Inspect's terms, with what was done to the model beside it."""
        models, text = import_extra("inspect_ai.model", "inspect"), asked.answer
        assert text is not None
        reason = "max_tokens" if text.finish_reason == "length" else "stop"
        output = models.ModelOutput.from_content(self.steered.model.name, text.text, stop_reason=reason)
        n, new = len(self.steered.model.encode(asked.chat)), len(text.token_ids)
        output.usage = models.ModelUsage(input_tokens=n, output_tokens=new, total_tokens=n + new)
        output.metadata = {"kvsteer": self.steered.about}
        return output


def register_inspect() -> Any:
    """Make `kvsteer/MODEL` known to Inspect in this process; where the package is installed, Inspect does so by itself.

    Returns:
        What Inspect makes models of, with the arguments `vectors`, `ck`, `cv`, `layers`, `slot`, `offset`, `name`,
        `control`, `device`, `dtype` as in `HarnessModel`, and `batch_size` (32).

    Raises:
        ImportError: Inspect isn't installed.

    >>> import inspect_ai, kvsteer_lab as kv  # doctest: +SKIP
    >>> kv.integrations.register_inspect()  # doctest: +SKIP
    >>> options = dict(vectors="stepwise.safetensors", cv=4)
    >>> inspect_ai.eval("task.py", model="kvsteer/tiny", model_args=options)  # doctest: +SKIP
    """
    models = import_extra("inspect_ai.model", "inspect")
    import_anyio()  # Inspect's event loop, which can't be imported as it is once nnsight is
    return models.modelapi(name="kvsteer")(type("KVSteerAPI", (InspectModel, models.ModelAPI), {}))


def _text_of(message: Any) -> str:
    """A message's text, refused where there is more to it."""
    content = message.content
    if message.role == "tool" or (not isinstance(content, str) and any(part.type != "text" for part in content)):
        raise ValueError(f"kvsteer reads text alone, and a message of the role {message.role} holds something else.")
    return str(message.text)
