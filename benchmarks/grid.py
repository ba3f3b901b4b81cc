"""64 settings in one forked batch against a loop of 64 runs: the same tokens, one prefill, one decode.

Two loops are measured: `kv.generate` once a setting, and the method written plainly (prefill, edit of the last slot,
`generate`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import models
import torch
import tyro
from transformers import DynamicCache

import kvsteer_lab as kv
from kvsteer_lab.generation.settings import resolve
from kvsteer_lab.models.tokens import offset_token


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    side: int = 8,
    tokens: int = 64,
    repeats: int = 3,
    threads: int = 1,
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights; tokens are asserted to be the same in float32 only.
        side: settings are side x side pairs of ck and cv.
        tokens: new tokens a setting; none ends earlier.
        repeats: rounds; each has the grid and both loops once.
        threads: of the CPU; with one, CPU time is measured, with more the wall clock.
        out: folder for the JSON file.
    """
    clock = measure.Clock(device, threads)
    loaded = models.load(model, device, getattr(torch, dtype))
    full = models.steering(loaded, model)
    cells = [
        replace(full, ck=6 * full.ck * i / (side - 1), cv=6 * full.cv * j / (side - 1))
        for i in range(side)
        for j in range(side)
    ]
    prompt = models.prompts(1)
    wanted = {"max_new_tokens": tokens, "min_new_tokens": tokens}

    def grid() -> list[list[int]]:
        return [
            list(ids) for ids in kv.generate(loaded, prompt, cells, generation=wanted, batch_size=len(cells)).token_ids
        ]

    def loop() -> list[list[int]]:
        return [list(kv.generate(loaded, prompt, cell, generation=wanted).token_ids[0]) for cell in cells]

    def plain() -> list[list[int]]:
        return [by_hand(loaded, prompt[0], cell, wanted) for cell in cells]

    runs = {"grid": grid, "loop": loop, "plain loop": plain}
    kv.generate(loaded, prompt, cells[:2], generation=wanted)  # the first call compiles the trace
    # type: ignore[misc]
    found = measure.rounds({name: lambda run=run: clock.time(run) for name, run in runs.items()}, repeats, warm=0)
    seconds = {name: [time for time, _ in timed] for name, timed in found.items()}
    ids = {name: timed[0][1] for name, timed in found.items()}
    same = {name: sum(a == b for a, b in zip(ids["grid"], ids[name], strict=True)) for name in ("loop", "plain loop")}
    distinct = len(set(map(tuple, ids["grid"])))
    if loaded.dtype == torch.float32:
        assert set(same.values()) == {len(cells)}, (
            f"of {len(cells)} settings these gave the same tokens in the grid: {same}"
        )
    assert distinct > 1, "the settings changed nothing: there is nothing to measure"
    result = dict(
        settings=len(cells),
        same_tokens=same,
        distinct_texts=distinct,
        seconds={name: measure.spread(s) for name, s in seconds.items()},
        loop_over_grid=measure.ratio(seconds["loop"], seconds["grid"]),
        plain_loop_over_grid=measure.ratio(seconds["plain loop"], seconds["grid"]),
    )
    print(
        f"{len(cells)} settings, {tokens} tokens each, {distinct} distinct texts: grid"
        f" {result['seconds']['grid']['median']:.3f} s, loop x{result['loop_over_grid']['median']:.1f}, plain loop"
        f" x{result['plain_loop_over_grid']['median']:.1f}; same tokens {same}"
    )
    settings = dict(model=model, side=side, tokens=tokens, repeats=repeats)
    return measure.write(
        f"grid-{model}" + (f"-{threads}threads" if threads > 1 else ""),
        measure.environment(clock, loaded.dtype),
        settings,
        result,
        out,
    )


@torch.no_grad()
def by_hand(model: kv.Model, prompt: Any, cell: kv.CacheSteering, wanted: dict[str, int]) -> list[int]:
    """The method in plain PyTorch: fill the cache, add to its last slot, go on from the offset token."""
    ids = torch.tensor([[*model.encode(prompt), offset_token(model.tokenizer, "\n")]], device=model.device)
    cache = DynamicCache(config=model.hf.config)
    given = {model.cache_argument: cache}
    model.hf(ids[:, :-1], use_cache=True, logits_to_keep=1, **given)
    for index in range(1, model.n_layers):
        layer = cache.layers[index]
        layer.keys[:, :, -1] += (cell.ck * cell.vectors.keys[index]).to(layer.keys)
        layer.values[:, :, -1] += (cell.cv * cell.vectors.values[index]).to(layer.values)
    config = resolve(model, wanted, chat=True).config
    said = model.hf.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **given)
    return said[0, ids.shape[1] :].tolist()


if __name__ == "__main__":
    tyro.cli(main)
