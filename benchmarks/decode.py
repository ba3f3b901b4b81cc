"""What steering costs: time to the first token and time a token, steered over unsteered, paired in one run.

Unsteered is the model's own `generate` on the same token ids, offset included. The library's path with nothing added is
measured beside it, and activation steering in its four ways: once or at every token, with the cache or without. The
first token's
cost is taken apart: one nnsight trace instead of a plain forward pass, the edit inside it, and the second, one-token
pass that reads the edited cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import measure
import models
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.edits.cache import apply
from kvsteer_lab.generation.settings import resolve
from kvsteer_lab.models.prefill import fill
from kvsteer_lab.models.tokens import offset_token, pad_left, pad_token

Timed = tuple[float, float, list[list[int]]]
"""Seconds to the first token, seconds for each later one, new ids by row."""


WAYS = {"one-shot": False, "every token": True}
"""How activation steering is run, and whether that is at every token."""


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    batch: tuple[int, ...] = (1, 16),
    shots: tuple[int, ...] = (0, 5),
    tokens: int = 64,
    repeats: int = 25,
    uncached_repeats: int = 5,
    budget: float = 60.0,
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights.
        batch: numbers of prompts decoded together; the first is timed on long prompts, too.
        shots: worked examples before each question: short and long prompts for the first token. All else is timed on
            the first.
        tokens: new tokens in a timed run.
        repeats: rounds; each has every variant once. First tokens get twice as many.
        uncached_repeats: rounds of the variants that use no cache, which are slow; 0 leaves them out.
        budget: seconds for one figure; past them there are fewer rounds, but five at least.
        out: folder for the JSON file.
    """
    clock = measure.Clock(device)
    loaded = models.load(model, device, getattr(torch, dtype))
    cached: dict[str, kv.Intervention] = {"nothing": kv.Nothing(), "steered": models.steering(loaded, model)}
    cached |= {
        way: models.activation_steering(loaded, model, every_token=every, cache=True) for way, every in WAYS.items()
    }
    uncached: dict[str, kv.Intervention] = {
        f"{way}, no cache": models.activation_steering(loaded, model, every_token=every, cache=False)
        for way, every in WAYS.items()
    }
    results = []
    for rows in batch:
        for n in shots if rows == batch[0] else shots[:1]:
            first = measure_first(loaded, cached, models.prompts(rows, n), clock, 2 * repeats, budget)
            results.append(dict(what="first token", batch=rows, shots=n, **first))
            report(results[-1])
        prompts = models.prompts(rows, shots[0])
        found = measure_tokens(loaded, cached, prompts, clock, tokens, repeats, budget)
        results.append(dict(what="time a token", batch=rows, **found))
        report(results[-1])
        if uncached_repeats:
            slow = measure_uncached(loaded, cached, uncached, prompts, clock, tokens, uncached_repeats, budget)
            results.append(dict(what="time a token without a cache", batch=rows, **slow))
            report(results[-1])
    settings = dict(
        model=model, batch=batch, shots=shots, tokens=tokens, repeats=repeats, uncached_repeats=uncached_repeats
    )
    return measure.write(f"decode-{model}", measure.environment(clock, loaded.dtype), settings, results, out)


def variants(
    model: kv.Model,
    methods: Mapping[str, kv.Intervention],
    prompts: list[Any],
    clock: measure.Clock,
    tokens: int,
    *,
    plain_uncached: bool = False,
) -> dict[str, Callable[[], Timed]]:
    """The model's own `generate` and ours under each method, `tokens` tokens a prompt; each starts from the chats."""
    wanted = _exactly(tokens)
    offset = offset_token(model.tokenizer, "\n")

    def plain(use_cache: bool) -> list[list[int]]:
        config = copy.copy(resolve(model, wanted, chat=True).config)
        config.use_cache = use_cache
        ids, mask = pad_left([[*model.encode(p), offset] for p in prompts], pad_token(model.tokenizer), model.device)
        return model.hf.generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()

    def ours(method: kv.Intervention) -> list[list[int]]:
        return [
            list(ids)
            for ids in kv.generate(model, prompts, method, generation=wanted, batch_size=len(prompts)).token_ids
        ]

    runs: dict[str, Callable[[], list[list[int]]]] = {"plain": lambda: plain(True)}
    if plain_uncached:
        runs["plain, no cache"] = lambda: plain(False)
    runs |= {name: lambda method=method: ours(method) for name, method in methods.items()}  # type: ignore[misc]
    return {name: lambda run=run: _timed(model, clock, run) for name, run in runs.items()}  # type: ignore[misc]


def _timed(model: kv.Model, clock: measure.Clock, run: Callable[[], list[list[int]]]) -> Timed:
    """Run, and read the clock after each forward pass of the plain model. (The prefill of ours is in the traced
    one.)
    """
    stamps: list[float] = []
    hook = model.hf.register_forward_hook(lambda *_: stamps.append(clock()))
    try:
        start = clock()
        ids = run()
    finally:
        hook.remove()
    return stamps[0] - start, (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1), ids


def measure_tokens(
    model: kv.Model,
    methods: Mapping[str, kv.Intervention],
    prompts: list[Any],
    clock: measure.Clock,
    tokens: int,
    repeats: int,
    budget: float,
) -> dict[str, Any]:
    """Time a token after the first, in milliseconds for the whole batch, and its ratio to the unsteered model's."""
    found = measure.rounds(variants(model, methods, prompts, clock, tokens), repeats, budget=budget)
    ids = {name: runs[0][2] for name, runs in found.items()}
    if model.dtype == torch.float32:
        assert ids["nothing"] == ids["plain"], "with nothing added the tokens must be those of generate"
    assert ids["plain"] not in (
        ids["steered"],
        ids["every token"],
    ), "the steering changed nothing: there is nothing to measure"
    seconds = {name: [run[1] for run in runs] for name, runs in found.items()}
    return dict(
        ms={name: measure.spread(s, 1e3) for name, s in seconds.items()},
        steered_over_plain=measure.ratio(seconds["steered"], seconds["plain"]),
        nothing_over_plain=measure.ratio(seconds["nothing"], seconds["plain"]),
        activation_over_plain={way: measure.ratio(seconds[way], seconds["plain"]) for way in WAYS},
        activation_over_steered={way: measure.ratio(seconds[way], seconds["steered"]) for way in WAYS},
        same_tokens=ids["nothing"] == ids["plain"],
        changed_texts={name: _changed(ids["plain"], ids[name]) for name in methods},
    )


def measure_uncached(
    model: kv.Model,
    cached: Mapping[str, kv.Intervention],
    uncached: Mapping[str, kv.Intervention],
    prompts: list[Any],
    clock: measure.Clock,
    tokens: int,
    repeats: int,
    budget: float,
) -> dict[str, Any]:
    """Time a token after the first without a cache, over the unsteered model's with one, and over cache steering's."""
    methods = {"steered": cached["steered"], **uncached}
    found = measure.rounds(
        variants(model, methods, prompts, clock, tokens, plain_uncached=True), repeats, budget=budget
    )
    ids = {name: runs[0][2] for name, runs in found.items()}
    with_cache = {
        way: [list(x) for x in kv.generate(model, prompts, cached[way], generation=_exactly(tokens)).token_ids]
        for way in WAYS
    }
    same = {way: sum(a == b for a, b in zip(ids[f"{way}, no cache"], with_cache[way], strict=True)) for way in WAYS}
    if model.dtype == torch.float32:
        assert set(same.values()) == {len(prompts)}, (
            f"without the cache the tokens must be the same, but of {len(prompts)} texts only these are: {same}"
        )
    seconds = {name: [run[1] for run in runs] for name, runs in found.items()}
    slow = [name for name in seconds if name.endswith("no cache")]
    return dict(
        ms={name: measure.spread(s, 1e3) for name, s in seconds.items()},
        over_plain={name: measure.ratio(seconds[name], seconds["plain"]) for name in slow},
        over_steered={name: measure.ratio(seconds[name], seconds["steered"]) for name in slow},
        same_as_cached=same,
    )


def _exactly(tokens: int) -> dict[str, int]:
    return {"max_new_tokens": tokens, "min_new_tokens": tokens}


def _changed(before: list[list[int]], after: list[list[int]]) -> int:
    return sum(a != b for a, b in zip(before, after, strict=True))


def measure_first(
    model: kv.Model,
    methods: Mapping[str, kv.Intervention],
    prompts: list[Any],
    clock: measure.Clock,
    repeats: int,
    budget: float,
) -> dict[str, Any]:
    """Time to the first token in milliseconds, its ratio to the unsteered model's, and what the difference is made
    of.
    """
    found = measure.rounds(variants(model, methods, prompts, clock, 1), repeats, warm=2, budget=budget)
    seconds = {name: [run[0] for run in runs] for name, runs in found.items()}
    ids, mask = pad_left([model.encode(p) for p in prompts], pad_token(model.tokenizer), model.device)
    lengths = mask.sum(-1).tolist()

    @torch.no_grad()
    def forward() -> None:
        model.hf(**model.forward_arguments(ids, mask), use_cache=True)

    parts: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "trace": lambda: fill(model, ids, mask),
        "trace_and_edit": lambda: fill(
            model,
            ids,
            mask,
            edit_cache=partial(apply, deltas=methods["steered"].deltas(model, lengths), lengths=lengths),
        ),
    }
    # type: ignore[misc]
    split = measure.rounds(
        {name: lambda run=run: clock.time(run)[0] for name, run in parts.items()}, repeats, warm=2, budget=budget
    )
    trace = [b - a for a, b in zip(split["forward"], split["trace"], strict=True)]
    edit = [b - a for a, b in zip(split["trace"], split["trace_and_edit"], strict=True)]
    return dict(
        prompt_tokens=max(lengths),
        ms={name: measure.spread(s, 1e3) for name, s in seconds.items()},
        steered_over_plain=measure.ratio(seconds["steered"], seconds["plain"]),
        activation_over_plain={way: measure.ratio(seconds[way], seconds["plain"]) for way in WAYS},
        overhead_ms=measure.spread([b - a for a, b in zip(seconds["plain"], seconds["steered"], strict=True)], 1e3),
        trace_ms=measure.spread(trace, 1e3),
        edit_ms=measure.spread(edit, 1e3),
    )


def report(result: dict[str, Any]) -> None:
    """One line a result, and one for each way of steering activations."""
    ms = result["ms"]
    line = (
        f"{result['what']:12s} batch {result['batch']:2d}  plain {ms['plain']['median']:8.3f} ms  steered"
        f" {ms['steered']['median']:8.3f} ms"
    )
    if "steered_over_plain" in result:
        line += f"  {_times(result['steered_over_plain'])}"
    if "trace_ms" in result:
        line += f"  prompt {result['prompt_tokens']} tokens: +{result['overhead_ms']['median']:.2f} ms,"
        line += f" of it trace {result['trace_ms']['median']:.2f}, edit {result['edit_ms']['median']:.2f}"
    elif "nothing_over_plain" in result:
        line += f"  (nothing added: {_times(result['nothing_over_plain'])})"
    print(line)
    for name, ratio in {**result.get("activation_over_plain", {}), **result.get("over_plain", {})}.items():
        print(f"{'':12s} {name:22s} {ms[name]['median']:8.3f} ms  {_times(ratio)}")


def _times(ratio: dict[str, float]) -> str:
    return f"x{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


if __name__ == "__main__":
    tyro.cli(main)
