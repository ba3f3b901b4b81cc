"""What an analysis of reading costs, before it runs: how many tokens it reads, and the measured time of a token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from ..models.attention import query_heads
from ..models.caches import cache_of
from ..models.lock import locked
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from ..vectors.indices import check_indices
from .reading.kl_in_groups import kl_to_first

_ROWS = 32


@dataclass(frozen=True)
class CostEstimate:
    """What an analysis computes, and how long that takes on this machine.

    Attributes:
        analysis: its name.
        prefilled: tokens of prompts.
        read: tokens that are read, or written, after the prompts.
        compared: distributions over the vocabulary that are unembedded or compared one by one.
        seconds: with what was measured for each of them.

    >>> CostEstimate("half_life", 1000, 20000, 20000, 200.0).text
    'half_life: about 3 min'
    """

    analysis: str
    prefilled: int
    read: int
    compared: int
    seconds: float

    @property
    def text(self) -> str:
        """The time in words."""
        return f"{self.analysis}: {_words(self.seconds)}"


def estimate_cost(
    model: Model,
    analysis: str,
    prompts: Prompt | Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    ways: Sequence[str] = ("everything", "one layer", "all but one layer", "one head", "all but one head"),
    methods: int = 1,
    controls: int = 40,
    steps: int = 16,
    others: int = 20,
    max_new_tokens: int = 128,
    chat: bool = True,
) -> CostEstimate:
    """How long an analysis of chapters 09a to 09c will take: the tokens that it reads, times the measured time of one.

    Three short passes are timed on the longest prompt: it is prefilled, read on in a batch, and some distributions are
    compared. So it takes a second or two, and tells minutes from hours; a busy machine, short replies and batches cut
    by memory make a factor of two.

    Args:
        model: from `kv.load`.
        analysis: `"attention_to_slot"`, `"attribute_heads"`, `"unembed_values"`, `"knock_out_reading"`,
            `"nats_of_reading"`, `"half_life"`, `"logit_lens"` or `"patch_residuals"`.
        prompts: those that it will be given.
        layers, heads, ways, controls, steps, others, max_new_tokens: as the analysis will be given them, as far as it
            takes them; `None` layers or heads: all.
        methods: interventions that are compared, controls apart.
        chat: as in `kv.generate`.

    Returns:
        The estimate; its `text` says `"patch_residuals: about 3 min"`.

    Raises:
        ValueError: an unknown analysis, a layer or head that isn't there, or no prompts.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> few = kv.analysis.estimate_cost(model, "patch_residuals", ["2 + 2?"] * 4, layers=[1, 3], controls=10)
        >>> many = kv.analysis.estimate_cost(model, "patch_residuals", ["2 + 2?"] * 4, controls=40)
        >>> few.read, many.read
        (744, 4336)
    """
    if analysis not in _COUNTS:
        raise ValueError(f"There is no estimate of {analysis!r}; choose from {', '.join(_COUNTS)}.")
    lengths = [len(model.encode(prompt, chat=chat)) for prompt in as_list(prompts)]
    sizes = _Sizes(
        lengths,
        check_indices("layer", layers, model.n_layers),
        len(check_indices("query head", heads, query_heads(model.hf))),
        tuple(ways),
        methods,
        controls,
        steps,
        others,
        max_new_tokens,
    )
    prefilled, read, compared = _COUNTS[analysis](sizes)
    of_prompt, of_read, of_compared = _measure(model, max(lengths))
    if analysis == "patch_residuals":  # its tokens stand side by side, as those of prompts do
        of_read = of_prompt
    seconds = prefilled * of_prompt + read * of_read + compared * of_compared
    return CostEstimate(analysis, prefilled, read, compared, seconds)


@dataclass(frozen=True)
class _Sizes:
    lengths: Sequence[int]
    layers: Sequence[int]
    heads: int
    ways: Sequence[str]
    methods: int
    controls: int
    steps: int
    others: int
    new: int

    @property
    def n(self) -> int:
        return len(self.lengths)

    @property
    def outs(self) -> int:
        """Knock-outs of reading."""
        numbers = {"everything": 1, "one layer": len(self.layers), "all but one layer": len(self.layers)}
        numbers |= dict.fromkeys(("one head", "all but one head"), len(self.layers) * self.heads)
        numbers |= dict.fromkeys(("from step", "only at step"), 4) | {"other slot": self.others}
        return sum(numbers.get(way, 0) for way in self.ways)


_Counts = tuple[int, int, int]


def _prefills(sizes: _Sizes, rows: int) -> int:
    """A prompt is prefilled once for each batch of 64 rows that has some of it."""
    return sum(sizes.lengths) * max(1, ceil(rows / 63))


def _attention(s: _Sizes) -> _Counts:
    rows = s.methods + s.controls
    return 2 * s.methods * _prefills(s, rows), 2 * s.n * rows * s.steps, 0


def _attribution(s: _Sizes) -> _Counts:
    rows = 1 + s.controls
    return _prefills(s, rows) + sum(s.lengths), s.n * (2 * rows + 1) * s.steps, s.n * rows * s.steps


def _values(s: _Sizes) -> _Counts:
    return 0, 0, len(s.layers) * s.heads * (1 + s.controls)


def _knock_out(s: _Sizes) -> _Counts:
    return _prefills(s, s.outs), s.n * (s.outs + 3) * s.new, 0


def _nats(s: _Sizes) -> _Counts:
    read = s.n * (s.outs + 1) * s.steps
    return _prefills(s, s.outs), read, read


def _half_life(s: _Sizes) -> _Counts:
    rows = 2 * s.steps + s.others
    read = s.methods * s.n * (rows + 1) * s.steps
    return s.methods * _prefills(s, rows), read, read


def _lens(s: _Sizes) -> _Counts:
    rows = s.n * (2 + s.controls)
    return _prefills(s, 2 + s.controls), rows * s.steps, rows * s.steps * len(s.layers)


def _patching(s: _Sizes) -> _Counts:
    edited = [layer for layer in s.layers if layer > 0]
    whole = 2 * (1 + 2 * len(edited)) * (1 + s.controls)
    behind = [sum(other >= layer for other in s.layers) for layer in edited]
    alone = sum(2 * (1 + 2 * n) + s.controls * 2 * n for n in behind)
    return sum(s.lengths), s.n * (whole + alone), 0


_COUNTS: dict[str, Callable[[_Sizes], _Counts]] = {
    "attention_to_slot": _attention,
    "attribute_heads": _attribution,
    "unembed_values": _values,
    "knock_out_reading": _knock_out,
    "nats_of_reading": _nats,
    "half_life": _half_life,
    "logit_lens": _lens,
    "patch_residuals": _patching,
}


@locked
@torch.no_grad()
def _measure(model: Model, length: int) -> tuple[float, float, float]:
    """Seconds of a token of a prompt, of a token that is read in a batch, and of a distribution that is compared: the
    quicker of two rounds.
    """
    ids = torch.ones(1, length, dtype=torch.long, device=model.device)
    found = []
    for _ in range(2):
        start = time.perf_counter()
        cache = cache_of(model.hf(input_ids=ids, use_cache=True))
        prefilled = time.perf_counter()
        cache.batch_repeat_interleave(_ROWS)
        arguments: dict[str, Any] = {"input_ids": ids[:, :1].expand(_ROWS, -1), model.cache_argument: cache}
        logits = model.hf(**arguments, use_cache=True).logits[:, -1].float()
        read = time.perf_counter()
        kl_to_first(logits[None]).cpu()
        end = time.perf_counter()
        found.append(((prefilled - start) / length, (read - prefilled) / _ROWS, (end - read) / _ROWS))
    prompt, token, compared = (min(times) for times in zip(*found, strict=True))
    return prompt, token, compared


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
