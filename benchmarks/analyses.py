"""Analyses of reading that share their passes, against plain ones: ratios and peak memory. And what the analyses of
chapters 09a to 09c cost at a quick size, beside what `kv.analysis.estimate_cost` says beforehand.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import models
import plain_analyses as plain
import torch
import tyro

import kvsteer_lab as kv

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def main(
    model: str = "tiny",
    prompts: int = 2,
    controls: int = 6,
    every: int = 1,
    steps: int = 4,
    repeats: int = 3,
    questions: int = 4,
    out: Path | None = None,
) -> Path:
    """Measure one model, on a CPU with one thread.

    Args:
        model: one of models.NAMES, or a named pretrained model such as smollm2-135m.
        prompts: of the comparison.
        controls: random vectors.
        every: looks at every so many layers.
        steps: tokens of text.
        repeats: rounds of the comparison.
        questions: of the analyses of the chapter, which run once; 0: they don't.
        out: folder for the JSON file.
    """
    clock = measure.Clock("cpu")
    loaded = models.load(model) if model in models.NAMES else kv.load(model)
    task = kv.tasks.get("tiny-arithmetic")
    named = model if model in models.NAMES else "tiny"  # the bundled task's pairs
    steering = models.steering(loaded, named)
    layers = list(range(0, loaded.n_layers, every))
    chats = [task.chat(q) for q in task.questions("dev", max(prompts, questions), 0)]
    few, texts = chats[:prompts], [[5 + p + t for t in range(steps)] for p in range(prompts)]
    variants = _variants(loaded, few, steering, texts, layers, controls)
    compared = {}
    for name, (ours, theirs) in variants.items():
        same = [abs(a - b) <= 1e-3 + 1e-3 * abs(b) for a, b in zip(ours(), theirs(), strict=True)]
        assert all(same), f"{name}: {same.count(False)} of {len(same)} numbers differ from the plain ones"
        found = measure.rounds(
            {"shared": lambda run=ours: _timed(clock, run), "plain": lambda run=theirs: _timed(clock, run)},
            repeats,
            warm=0,
        )
        seconds = {side: [s for s, _ in found[side]] for side in found}
        compared[name] = dict(
            numbers=len(same),
            seconds={side: measure.spread(s) for side, s in seconds.items()},
            plain_over_shared=measure.ratio(seconds["plain"], seconds["shared"]),
            peak_megabytes={side: max(m for _, m in found[side]) for side in found},
        )
        print(f"{name}: plain x{compared[name]['plain_over_shared']['median']:.1f}, {compared[name]['peak_megabytes']}")
    chapter = _chapter(loaded, task, steering, chats[:questions], layers, clock, controls) if questions else {}
    settings = dict(model=model, prompts=prompts, controls=controls, every=every, steps=steps, repeats=repeats)
    total = round(sum(each["seconds"] for each in chapter.values()), 1)
    result = dict(layers=len(layers), chapter_seconds=total, compared=compared, chapter=chapter)
    return measure.write(
        f"analyses-{model}", measure.environment(clock, loaded.dtype), settings | dict(questions=questions), result, out
    )


def _variants(
    model: kv.Model,
    prompts: list[Any],
    steering: kv.CacheSteering,
    texts: list[list[int]],
    layers: list[int],
    controls: int,
) -> dict[str, tuple[Callable[[], list[float]], Callable[[], list[float]]]]:
    a, some = kv.analysis, dict(layers=layers, controls=controls, progress=False)
    return {
        "logit_lens": (
            lambda: a.logit_lens(model, prompts, steering, [5], texts, **some).divergence.kl.tolist(),
            lambda: plain.lens_divergence(model, prompts, steering, texts, layers, controls),
        ),
        "patch_residuals": (
            lambda: a.patch_residuals(model, prompts, steering, 5, **some).nats.tolist(),
            lambda: plain.patched_effects(model, prompts, steering, 5, layers, controls, batch=256),
        ),
        "attribute_heads": (
            lambda: a.attribute_heads(model, prompts, steering, texts, **some).change.tolist(),
            lambda: plain.attributed_changes(model, prompts, steering, texts, layers, controls),
        ),
        "unembed_values": (
            lambda: a.unembed_values(model, steering, 1, **some).logit.tolist(),
            lambda: plain.unembedded_values(model, steering, layers, controls),
        ),
    }


def _chapter(
    model: kv.Model,
    task: kv.tasks.Task,
    steering: kv.CacheSteering,
    chats: list[Any],
    layers: list[int],
    clock: measure.Clock,
    controls: int,
) -> dict[str, dict[str, Any]]:
    """Every analysis of chapters 09a to 09c once, at a quick size: seconds, what was estimated, and peak memory."""
    a, n = kv.analysis, len(chats)
    examples = kv.FewShot.of_style(task, "stepwise", 2, seed=0)
    methods: list[kv.Intervention] = [kv.Nothing(), steering, examples]
    drawn = kv.random_controls(steering, controls, 0)
    heads = range(0, int(model.hf.config.num_attention_heads), 3)
    ways = ("everything", "one layer", "all but one layer", "one head", "all but one head", "other slot")
    asked, new = ("everything", "one layer", "from step", "other slot"), 48
    look: dict[str, Any] = dict(layers=layers, progress=False)
    sampled, drawing = dict(layers=layers, heads=heads), dict(layers=layers, controls=controls)
    runs: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
        "attention_to_slot": (
            lambda: a.attention_to_slot(model, chats, [*methods, *drawn], steps=8, **look),
            dict(methods=3, steps=8, **drawing),
        ),
        "attribute_heads": (
            lambda: a.attribute_heads(model, chats, steering, controls=controls, **look),
            dict(steps=1, **drawing),
        ),
        "unembed_values": (lambda: a.unembed_values(model, steering, controls=controls, **look), drawing),
        "nats_of_reading": (
            lambda: a.nats_of_reading(model, chats, examples, ways, heads=heads, steps=16, **look),
            dict(ways=ways, steps=16, **sampled),
        ),
        "half_life": (
            lambda: a.half_life(model, chats, methods, steps=8, others=10, progress=False),
            dict(methods=3, steps=8, others=10),
        ),
        "logit_lens": (
            lambda: a.logit_lens(model, chats, steering, controls=controls, **look),
            dict(steps=1, **drawing),
        ),
        "patch_residuals": (
            lambda: a.patch_residuals(model, chats, steering, controls=controls, **look),
            drawing,
        ),
        "knock_out_reading": (
            lambda: a.knock_out_reading(model, task, examples, asked, n=n, generation={"max_new_tokens": new}, **look),
            dict(ways=asked, others=5, max_new_tokens=new, layers=layers),
        ),
    }
    found = {}
    for name, (run, sizes) in runs.items():
        before = kv.analysis.estimate_cost(model, name, [examples.chat(c) for c in chats], **sizes)
        start = time.perf_counter()
        seconds, megabytes = _timed(clock, run)
        found[name] = dict(
            seconds=round(seconds, 2),
            wall_seconds=round(time.perf_counter() - start, 2),
            estimated_wall_seconds=round(before.seconds, 2),
            tokens_read=before.read,
            peak_megabytes=megabytes,
        )
        print(f"{name}: {seconds:.1f} s, estimated {before.seconds:.1f} s of wall time, peak {megabytes} MB")
    return found


def _timed(clock: measure.Clock, run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and how many megabytes the process grew to at most beyond what it had; NaN where the system doesn't
    tell.
    """
    gc.collect()
    before = _memory("VmRSS")
    if _RESET.exists():
        _RESET.write_text("5")
    seconds, _ = clock.time(run)
    return seconds, round(_memory("VmHWM") - before)


def _memory(name: str) -> float:
    if not _STATUS.exists():
        return math.nan
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    torch.set_num_threads(1)
    tyro.cli(main)
