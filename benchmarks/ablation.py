"""Single layers and leave-one-out as one forked run, against brute force: the same texts, one prefill a question for
all masks.

Brute force is measured twice: a batched `kv.generate` a mask, and one text at a time. Neither has baselines or
controls, so only the masks are compared.
"""

from __future__ import annotations

from pathlib import Path

import measure
import models
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.analysis.ablation.masks import layer_masks


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    questions: int = 24,
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
        questions: asked under each mask.
        tokens: new tokens a text at most; random models write all of them.
        repeats: rounds; each has every variant once.
        threads: of the CPU; with one, CPU time is measured, with more the wall clock.
        out: folder for the JSON file.
    """
    clock = measure.Clock(device, threads)
    loaded = models.load(model, device, getattr(torch, dtype))
    masks = layer_masks(models.steering(loaded, model), ("single", "leave one out"), "keys and values", 1)
    steered = [kept.restrict(models.steering(loaded, model)) for kept in dict.fromkeys(mask.kept for mask in masks)]
    prompts = models.prompts(questions)
    wanted = {"max_new_tokens": tokens}

    def ask(asked: list[object], methods: list[kv.CacheSteering]) -> list[tuple[int, ...]]:
        texts = kv.generate(loaded, asked, methods, generation=wanted, batch_size=64, progress=False)
        order = {method.label: i for i, method in enumerate(methods)}
        return [
            tuple(text.token_ids) for text in sorted(texts, key=lambda text: (order[text.intervention], text.prompt))
        ]

    runs = {
        "forked": lambda: ask(prompts, steered),
        "a batch a mask": lambda: [ids for method in steered for ids in ask(prompts, [method])],
        "one text at a time": lambda: [
            ids for method in steered for prompt in prompts for ids in ask([prompt], [method])
        ],
    }
    ask(prompts[:1], steered[:2])  # the first call compiles the trace
    # type: ignore[misc]
    found = measure.rounds({name: lambda run=run: clock.time(run) for name, run in runs.items()}, repeats, warm=0)
    seconds = {name: [time for time, _ in timed] for name, timed in found.items()}
    texts = {name: timed[0][1] for name, timed in found.items()}
    same = {
        name: sum(a == b for a, b in zip(texts["forked"], texts[name], strict=True))
        for name in runs
        if name != "forked"
    }
    total, distinct = len(texts["forked"]), len(set(texts["forked"]))
    if loaded.dtype == torch.float32:
        assert set(same.values()) == {total}, f"of {total} texts these are the same as in the forked run: {same}"
    assert distinct > len(prompts), "the masks changed nothing: there is nothing to measure"
    result = dict(
        masks=len(steered),
        questions=len(prompts),
        texts=total,
        same_texts=same,
        distinct_texts=distinct,
        seconds={name: measure.spread(s) for name, s in seconds.items()},
        over_forked={name: measure.ratio(seconds[name], seconds["forked"]) for name in same},
    )
    ratios = ", ".join(f"{name} x{ratio['median']:.1f}" for name, ratio in result["over_forked"].items())
    print(
        f"{len(steered)} masks of {len(prompts)} questions: forked {result['seconds']['forked']['median']:.2f} s,"
        f" {ratios}; same texts {same} of {total}"
    )
    settings = dict(model=model, questions=questions, tokens=tokens, repeats=repeats)
    name = f"ablation-{model}" + (f"-{threads}threads" if threads > 1 else "")
    return measure.write(name, measure.environment(clock, loaded.dtype), settings, result, out)


if __name__ == "__main__":
    tyro.cli(main)
