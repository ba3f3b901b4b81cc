"""Questions a second: `kv.generate` on a batch of questions against a loop that asks one at a time.

The loop is the model's own `generate` on one prompt after another, offset included, nothing steered. Both start from
the chats. Two
lengths are measured: texts as they end (the bundled model answers with a few tokens, so the prompts' prefill is most of
the work, and the batch waits for its longest text), and exactly as many tokens for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import models
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.generation.settings import resolve
from kvsteer_lab.models.tokens import offset_token


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    questions: int = 64,
    tokens: int = 64,
    repeats: int = 5,
    threads: int = 1,
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights; tokens are asserted to be the same in float32 only.
        questions: asked together, and one at a time.
        tokens: new tokens a question: at most, and exactly.
        repeats: rounds; each has every variant once.
        threads: of the CPU; with one, CPU time is measured, with more the wall clock.
        out: folder for the JSON file.
    """
    clock = measure.Clock(device, threads)
    loaded = models.load(model, device, getattr(torch, dtype))
    steering = models.steering(loaded, model)
    prompts = models.prompts(questions)
    results = []
    for what, wanted in (
        ("texts as they end", {"max_new_tokens": tokens}),
        (f"{tokens} tokens each", {"max_new_tokens": tokens, "min_new_tokens": tokens}),
    ):
        results.append(dict(what=what, **measure_questions(loaded, steering, prompts, clock, wanted, repeats)))
        report(results[-1])
    name = f"questions-{model}" + (f"-{threads}threads" if threads > 1 else "")
    settings = dict(model=model, questions=questions, tokens=tokens, repeats=repeats)
    return measure.write(name, measure.environment(clock, loaded.dtype), settings, results, out)


def measure_questions(
    model: kv.Model,
    steering: kv.CacheSteering,
    prompts: list[Any],
    clock: measure.Clock,
    wanted: dict[str, int],
    repeats: int,
) -> dict[str, Any]:
    """Questions a second of the loop and of the batch, nothing added and steered, and the ratio of their times."""
    offset = offset_token(model.tokenizer, "\n")
    config = resolve(model, wanted, chat=True).config

    def loop() -> list[list[int]]:
        found = []
        for prompt in prompts:
            ids = torch.tensor([[*model.encode(prompt), offset]], device=model.device)
            text = model.hf.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            found.append(text[0, ids.shape[1] :].tolist())
        return found

    def batch(method: kv.Intervention) -> list[list[int]]:
        return [
            list(ids)
            for ids in kv.generate(model, prompts, method, generation=wanted, batch_size=len(prompts)).token_ids
        ]

    runs = {"loop": loop, "batch": lambda: batch(kv.Nothing()), "steered batch": lambda: batch(steering)}
    kv.generate(model, prompts[:2], steering, generation={"max_new_tokens": 2})  # the first call compiles the trace
    # type: ignore[misc]
    found = measure.rounds({name: lambda run=run: clock.time(run) for name, run in runs.items()}, repeats, warm=0)
    seconds = {name: [time for time, _ in timed] for name, timed in found.items()}
    ids: dict[str, Any] = {name: timed[0][1] for name, timed in found.items()}
    same = sum(a == b for a, b in zip(ids["loop"], ids["batch"], strict=True))
    changed = sum(a != b for a, b in zip(ids["batch"], ids["steered batch"], strict=True))
    if model.dtype == torch.float32:
        assert same == len(prompts), (
            f"the batch must say what the loop says, but only {same} of {len(prompts)} texts are the same"
        )
    assert changed, "the steering changed nothing: there is nothing to measure"
    return dict(
        questions=len(prompts),
        same_tokens=same,
        changed_texts=changed,
        new_tokens={name: sum(map(len, texts)) for name, texts in ids.items()},
        questions_a_second={name: measure.spread([len(prompts) / s for s in times]) for name, times in seconds.items()},
        loop_over_batch=measure.ratio(seconds["loop"], seconds["batch"]),
        loop_over_steered_batch=measure.ratio(seconds["loop"], seconds["steered batch"]),
    )


def report(result: dict[str, Any]) -> None:
    """One line a result."""
    rates = ", ".join(f"{name} {rate['median']:.1f}" for name, rate in result["questions_a_second"].items())
    ratio, same = result["loop_over_batch"]["median"], result["same_tokens"]
    print(
        f"{result['questions']} questions, {result['what']}; questions a second: {rates}; batch over loop x{ratio:.1f},"
        f" same tokens {same}"
    )


if __name__ == "__main__":
    tyro.cli(main)
