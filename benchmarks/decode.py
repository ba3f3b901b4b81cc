"""What steering costs: time to the first token and time a token, steered over unsteered, paired in one run.

Unsteered is the model's own `generate` on the same token ids, offset included. The library's path with nothing added is
measured beside it. The first token's cost is taken apart: one nnsight trace instead of a plain forward pass, the edit
inside it, and the second, one-token pass that reads the edited cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import models
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.cache import fill
from kvsteer_lab.prompts import offset_token, pad_left, pad_token
from kvsteer_lab.settings import resolve

Timed = tuple[float, float, list[list[int]]]
"""Seconds to the first token, seconds for each later one, new ids by row."""


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    batch: tuple[int, ...] = (1, 16),
    shots: tuple[int, ...] = (0, 5),
    tokens: int = 64,
    repeats: int = 25,
    budget: float = 60.0,
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights.
        batch: numbers of prompts decoded together; the first is timed on long prompts, too.
        shots: worked examples before each question: short and long prompts for the first token. All else is timed on the first.
        tokens: new tokens in a timed run.
        repeats: rounds; each has every variant once. First tokens get twice as many.
        budget: seconds for one figure; past them there are fewer rounds, but five at least.
        out: folder for the JSON file.
    """
    clock = measure.Clock(device)
    loaded = models.load(model, device, getattr(torch, dtype))
    steering = models.steering(loaded, model)
    results = []
    for rows in batch:
        for n in shots if rows == batch[0] else shots[:1]:
            first = measure_first(loaded, steering, models.prompts(rows, n), clock, 2 * repeats, budget)
            results.append(dict(what="first token", batch=rows, shots=n, **first))
            report(results[-1])
        results.append(
            dict(what="time a token", batch=rows, **measure_tokens(loaded, steering, models.prompts(rows, shots[0]), clock, tokens, repeats, budget))
        )
        report(results[-1])
    settings = dict(model=model, batch=batch, shots=shots, tokens=tokens, repeats=repeats)
    return measure.write(f"decode-{model}", measure.environment(clock, loaded.dtype), settings, results, out)


def variants(model: kv.Model, steering: kv.CacheSteering, prompts: list[Any], clock: measure.Clock, tokens: int) -> dict[str, Callable[[], Timed]]:
    """The three ways of generating `tokens` tokens a prompt; each starts from the chats."""
    wanted = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    config = resolve(model, wanted, chat=True).config
    offset = offset_token(model.tokenizer, "\n")

    def plain() -> list[list[int]]:
        ids, mask = pad_left([[*model.encode(p), offset] for p in prompts], pad_token(model.tokenizer), model.device)
        return model.hf.generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()

    def ours(intervention: kv.Intervention) -> list[list[int]]:
        return [list(ids) for ids in kv.generate(model, prompts, intervention, generation=wanted, batch_size=len(prompts)).token_ids]

    runs = {"plain": plain, "nothing": lambda: ours(kv.Nothing()), "steered": lambda: ours(steering)}
    return {name: lambda run=run: _timed(model, clock, run) for name, run in runs.items()}  # type: ignore[misc]


def _timed(model: kv.Model, clock: measure.Clock, run: Callable[[], list[list[int]]]) -> Timed:
    """Run, and read the clock after each forward pass of the plain model. (The prefill of ours is in the traced one.)"""
    stamps: list[float] = []
    hook = model.hf.register_forward_hook(lambda *_: stamps.append(clock()))
    try:
        start = clock()
        ids = run()
    finally:
        hook.remove()
    return stamps[0] - start, (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1), ids


def measure_tokens(
    model: kv.Model, steering: kv.CacheSteering, prompts: list[Any], clock: measure.Clock, tokens: int, repeats: int, budget: float
) -> dict[str, Any]:
    """Time a token after the first, in milliseconds for the whole batch, and its ratio to the unsteered model's."""
    found = measure.rounds(variants(model, steering, prompts, clock, tokens), repeats, budget=budget)
    ids = {name: runs[0][2] for name, runs in found.items()}
    if model.dtype == torch.float32:
        assert ids["nothing"] == ids["plain"], "with nothing added the tokens must be those of generate"
    assert ids["steered"] != ids["plain"], "the steering changed nothing: there is nothing to measure"
    seconds = {name: [run[1] for run in runs] for name, runs in found.items()}
    return dict(
        ms={name: measure.spread(s, 1e3) for name, s in seconds.items()},
        steered_over_plain=measure.ratio(seconds["steered"], seconds["plain"]),
        nothing_over_plain=measure.ratio(seconds["nothing"], seconds["plain"]),
        same_tokens=ids["nothing"] == ids["plain"],
    )


def measure_first(model: kv.Model, steering: kv.CacheSteering, prompts: list[Any], clock: measure.Clock, repeats: int, budget: float) -> dict[str, Any]:
    """Time to the first token in milliseconds, its ratio to the unsteered model's, and what the difference is made of."""
    found = measure.rounds(variants(model, steering, prompts, clock, 1), repeats, warm=2, budget=budget)
    seconds = {name: [run[0] for run in runs] for name, runs in found.items()}
    ids, mask = pad_left([model.encode(p) for p in prompts], pad_token(model.tokenizer), model.device)
    lengths = mask.sum(-1).tolist()

    @torch.no_grad()
    def forward() -> None:
        model.hf(**model.forward_arguments(ids, mask), use_cache=True)

    parts: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "trace": lambda: fill(model, ids, mask),
        "trace_and_edit": lambda: fill(model, ids, mask, deltas=steering.deltas(model, lengths)),
    }
    split = measure.rounds({name: lambda run=run: clock.time(run)[0] for name, run in parts.items()}, repeats, warm=2, budget=budget)  # type: ignore[misc]
    trace = [b - a for a, b in zip(split["forward"], split["trace"], strict=True)]
    edit = [b - a for a, b in zip(split["trace"], split["trace_and_edit"], strict=True)]
    return dict(
        prompt_tokens=max(lengths),
        ms={name: measure.spread(s, 1e3) for name, s in seconds.items()},
        steered_over_plain=measure.ratio(seconds["steered"], seconds["plain"]),
        overhead_ms=measure.spread([b - a for a, b in zip(seconds["plain"], seconds["steered"], strict=True)], 1e3),
        trace_ms=measure.spread(trace, 1e3),
        edit_ms=measure.spread(edit, 1e3),
    )


def report(result: dict[str, Any]) -> None:
    """One line a result."""
    ms, times = result["ms"], result["steered_over_plain"]
    line = f"{result['what']:12s} batch {result['batch']:2d}  plain {ms['plain']['median']:8.3f} ms  steered {ms['steered']['median']:8.3f} ms"
    line += f"  x{times['median']:.3f} [{times['low']:.3f}, {times['high']:.3f}]"
    if "trace_ms" in result:
        line += f"  prompt {result['prompt_tokens']} tokens: +{result['overhead_ms']['median']:.2f} ms,"
        line += f" of it trace {result['trace_ms']['median']:.2f}, edit {result['edit_ms']['median']:.2f}"
    else:
        line += f"  (nothing added: x{result['nothing_over_plain']['median']:.3f})"
    print(line)


if __name__ == "__main__":
    tyro.cli(main)
