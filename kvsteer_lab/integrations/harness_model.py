"""The model that lm-evaluation-harness asks: its two kinds of requests, answered through `kv.generate` and `kv.score`.

Nothing here needs the harness: a request is anything with `args`. `register_lm_eval` makes it one of the harness's
own models.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol, Self

from ..generation.generate import generate_all
from ..generation.scoring import score
from ..generation.settings import end_tokens
from ..interventions.base import Nothing
from ..models.prompts import render, template_hash
from ..models.tokens import encode, missing_bos
from .steering_arguments import MAX_NEW_TOKENS, SteeredModel, read_arguments, refuse_unknown

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The harness's names for the longest reply, the first that is there counts."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


class Request(Protocol):
    """What the harness asks: a prompt with settings of generation, or with a continuation."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class HarnessModel:
    """A steered model for lm-evaluation-harness. Texts are those of `kv.generate`, and log-probabilities those of
    `kv.score`, whatever the batch; both are read from the edited cache, offset token included.

    Args:
        pretrained: as in `kv.load`.
        vectors: a file of `kv.KVVectors`; left out: the baseline.
        ck, cv: coefficients; `cv` is needed with vectors.
        layers: `2`, `"1-3"`, `"1+4"`; left out: layer 1 and above.
        slot, name: as in `kv.CacheSteering`.
        offset: as in `kv.generate`; `None` only without vectors.
        control: the seed of a random control in place of the vectors.
        device, dtype: as in `kv.load`.
        batch_size: rows at most; `"auto"`: 64, fewer where memory is short.
        max_batch_size: the most that `"auto"` may take.
        max_gen_toks: the longest reply, where a task doesn't say.
        seed: of sampling.

    Raises:
        ValueError: `cv` without vectors or vectors without `cv`, a coefficient that is no finite number, vectors of
            another model.

    >>> from types import SimpleNamespace
    >>> lm = HarnessModel("tiny")
    >>> asked = SimpleNamespace(args=("What is 2 + 3?", {"max_gen_toks": 2}))
    >>> len(lm.generate_until([asked]))
    1
    """

    def __init__(
        self,
        pretrained: str = "tiny",
        vectors: str | None = None,
        ck: float | str | None = None,
        cv: float | str | None = None,
        layers: int | str | Sequence[int] | None = None,
        slot: int = -1,
        offset: str | None = "\n",
        name: str | None = None,
        control: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        max_gen_toks: int = MAX_NEW_TOKENS,
        seed: int = 0,
    ) -> None:
        super().__init__()  # the harness's own class, where it stands after this one
        automatic = str(batch_size).startswith("auto")
        if not automatic and not (str(batch_size).isdecimal() and int(batch_size) > 0):
            raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1, or 'auto'.")
        self.rows = int(max_batch_size or 64) if automatic else int(batch_size)
        self.max_gen_toks, self.seed = int(max_gen_toks), int(seed)
        self.steered: SteeredModel = read_arguments(
            pretrained,
            vectors=vectors,
            ck=ck,
            cv=cv,
            layers=layers,
            slot=slot,
            offset=offset,
            name=name,
            control=control,
            device=device,
            dtype=dtype,
        )
        self.model, self.tokenizer = self.steered.model, self.steered.model.tokenizer

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> Self:
        """As the harness calls it: the user's arguments, then its own.

        Raises:
            ValueError: an argument that isn't known, and what the class refuses.
        """
        refuse_unknown(arg_dict, inspect.signature(HarnessModel).parameters)
        return cls(**{**{k: v for k, v in (additional_config or {}).items() if v is not None}, **arg_dict})

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """One text a request; the k-th of equal requests gets the k-th sample.

        Raises:
            ValueError: settings that `kv.generate` refuses.
        """
        asked = [(self._prompt(r.args[0]), json.dumps(self._settings(r.args[1]), sort_keys=True)) for r in requests]
        times = Counter(asked)
        texts: dict[tuple[str, str], list[str]] = {}
        for settings, samples in dict.fromkeys((key[1], n) for key, n in times.items()):
            keys = [key for key, n in times.items() if (key[1], n) == (settings, samples)]
            generation = json.loads(settings)
            samples = samples if generation.get("do_sample") else 1
            found = generate_all(
                self.model,
                [prompt for prompt, _ in keys],
                self.steered.intervention,
                chat=False,
                offset=self.steered.offset,
                generation=generation,
                samples=samples,
                seed=self.seed,
                batch_size=self.rows,
                progress=not disable_tqdm,
            ).texts
            texts.update({key: found[i * samples : (i + 1) * samples] for i, key in enumerate(keys)})
        seen: Counter[tuple[str, str]] = Counter()
        answers = []
        for key in asked:
            answers.append(texts[key][seen[key] % len(texts[key])])
            seen[key] += 1
        return answers

    def loglikelihood(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding would write it.

        Raises:
            ValueError: a prompt without text under steering: it has no slot of its own.
        """
        if not requests:
            return []
        if not isinstance(self.steered.intervention, Nothing) and not all(r.args[0] for r in requests):
            raise ValueError(
                "A likelihood without a prompt (acc_mutual_info) has no slot that could be steered; leave that metric"
                " out."
            )
        scores = score(
            self.model,
            [self._prompt(r.args[0]) for r in requests],
            [r.args[1] for r in requests],
            self.steered.intervention,
            chat=False,
            offset=self.steered.offset,
            batch_size=self.rows,
        )
        return list(zip(scores.totals, scores.greedy, strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Request], disable_tqdm: bool = False) -> NoReturn:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "The perplexity of whole texts (loglikelihood_rolling) has no prompt whose slot could be steered; choose"
            " tasks that generate or compare continuations."
        )

    # --- what the harness asks of a model besides -------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """By which the harness tells its caches of prompts apart."""
        return f"{self.model.name}__{template_hash(self.tokenizer)}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that `--apply_chat_template` stands for.

        Raises:
            ValueError: a template's name; the model has the one it was loaded with.
        """
        if isinstance(chat_template, str):
            raise ValueError("kvsteer has one chat template a model; use --apply_chat_template without a name.")
        return self.tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model reads it, like every chat here; the assistant's last message is left open."""
        return render(self.tokenizer, chat_history)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its file of results, where `read_lm_eval` finds it."""
        return {"kvsteer": self.steered.about}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take the harness's cache of replies (`--use_cache`), whose keys don't say under what they were given.

        Raises:
            ValueError: it holds replies of another model or intervention.
        """
        replies, own = getattr(cache_hook, "dbdict", None), json.dumps(self.steered.about, sort_keys=True)
        if replies is not None:
            if len(replies) and replies.get("kvsteer") != own:
                raise ValueError("This --use_cache holds replies of another model or intervention; name another file.")
            replies["kvsteer"] = own
        self.cache_hook = cache_hook

    def _prompt(self, context: str) -> str:
        """The context with the BOS that the tokenizer itself would put first; without any text, BOS or EOS alone."""
        if not context:
            return str(self.tokenizer.bos_token or self.tokenizer.eos_token)
        return (missing_bos(self.tokenizer, encode(self.tokenizer, context)) or "") + context

    def _settings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A task's `generation_kwargs` in this library's terms; what it doesn't know, `kv.generate` refuses by name."""
        rest = {k: v for k, v in asked.items() if k not in ("until", "do_sample", *_LENGTHS, *_SAMPLING)}
        until = asked.get("until") or []
        sample = asked.get("do_sample", float(asked.get("temperature") or 0) > 0)
        sample = bool(sample) and float(asked.get("temperature", 1.0)) > 0
        length = next((asked[k] for k in _LENGTHS if asked.get(k) is not None), self.max_gen_toks)
        return {
            **rest,
            **({k: asked[k] for k in _SAMPLING if asked.get(k) is not None} if sample else {}),
            "do_sample": sample,
            "max_new_tokens": int(length),
            "stop_strings": [text for text in ([until] if isinstance(until, str) else until) if text],
            # A prompt is a chat already rendered, or plain text: in both the model may end its turn.
            "eos_token_id": sorted(end_tokens(self.model, None, chat=True)),
        }
