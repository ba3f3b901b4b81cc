"""Natural replies, which end at very different times: a batch that finished rows leave against one that runs until its
last row has ended, ours and transformers' own `generate`; and extraction against a plain loop over single prompts, with
examples of their own and shared ones.

Row-steps are passes of one row through the model after the prefill. Those of the fixed batches follow from the lengths
of the replies; both are timed, and their tokens compared, on the first of the questions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import measure
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.generation.decoding import decode
from kvsteer_lab.generation.generate import prepare
from kvsteer_lab.generation.rows import group_rows
from kvsteer_lab.generation.running import decode_queue
from kvsteer_lab.models.caches import cache_of
from kvsteer_lab.models.tokens import encode, pad_left


def main(
    model: str = "smollm2-135m",
    task: str = "commonsense_qa",
    replies: int = 256,
    timed: int = 64,
    batch: int = 64,
    tokens: int = 128,
    pairs: int = 12,
    what: tuple[Literal["replies", "extraction"], ...] = ("replies", "extraction"),
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        model: any that `kv.load` knows.
        task: whose questions are asked, those for development first.
        replies: how many.
        timed: how many of them are decoded in all three ways, and timed.
        batch: rows decoded together.
        tokens: the longest reply.
        pairs: pairs of an extraction.
        what: what is measured.
        out: folder for the JSON file.
    """
    clock = measure.Clock("cpu")
    loaded = kv.load(model)
    results: list[dict[str, Any]] = []
    if "replies" in what:
        results.append(measure_replies(loaded, task, clock, replies, timed, batch, tokens))
        print(results[-1])
    if "extraction" in what:
        for shared in (False, True):
            results.append(measure_extraction(loaded, clock, pairs, shared))
            print(results[-1])
    settings = dict(model=model, task=task, replies=replies, timed=timed, batch=batch, tokens=tokens, pairs=pairs)
    return measure.write(f"replies-{model}", measure.environment(clock, loaded.dtype), settings, results, out)


def measure_replies(
    model: kv.Model, task: str, clock: measure.Clock, replies: int, timed: int, batch: int, tokens: int
) -> dict[str, Any]:
    """Row-steps of both ways, and seconds of them and of transformers' own batches."""
    asked = kv.tasks.get(task)
    questions = [*asked.questions("dev"), *asked.questions("extraction")][:replies]
    chats = [asked.chat(question) for question in questions]
    settings, rows, _ = prepare(
        model, chats, None, chat=True, offset="\n", generation={"max_new_tokens": tokens}, samples=1
    )
    steps = 0
    original = model.hf.generate

    def count(ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
        nonlocal steps
        longer = original(ids, **arguments)
        steps += len(ids) * (longer.shape[1] - ids.shape[1])
        return longer

    def leaving(chosen: Sequence[Any]) -> dict[int, list[int]]:
        groups = group_rows(model, chosen)
        return {
            i: ids for g in groups for done in decode_queue(model, chosen, g, settings, 0, batch) for i, ids in done
        }

    def fixed(chosen: Sequence[Any]) -> dict[int, list[int]]:
        parts = [g[at : at + batch] for g in group_rows(model, chosen) for at in range(0, len(g), batch)]
        texts = [decode(model, [chosen[i] for i in part], settings, 0) for part in parts]
        return {i: ids for part, some in zip(parts, texts, strict=True) for i, ids in zip(part, some, strict=True)}

    @torch.no_grad()
    def plain(chosen: Sequence[Any]) -> dict[int, list[int]]:
        found = {}
        for group in group_rows(model, chosen):
            for at in range(0, len(group), batch):
                part = group[at : at + batch]
                ids, mask = pad_left([chosen[i].prompt_ids + chosen[i].tail for i in part], model.pad_id, model.device)
                config = copy.deepcopy(settings.config)
                out = original(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()
                found |= {i: settings.reply_of(ids) for i, ids in zip(part, out, strict=True)}
        return found

    model.hf.generate = count
    try:
        seconds, every = clock.time(lambda: leaving(rows))
        made = steps
        print(
            f"{len(rows)} replies, {sum(map(len, every.values()))} tokens, {made} row-steps, {seconds:.1f} s",
            flush=True,
        )
        ours, theirs, stock = (clock.time(partial(way, rows[:timed])) for way in (leaving, fixed, plain))
    finally:
        model.hf.generate = original
    parts = [g[at : at + batch] for g in group_rows(model, rows) for at in range(0, len(g), batch)]
    before = sum(len(part) * max(len(every[i]) for i in part) for part in parts)
    useful = sum(map(len, every.values()))
    return dict(
        what="replies",
        replies=len(rows),
        tokens=useful,
        row_steps=made,
        row_steps_of_fixed_batches=before,
        fewer_row_steps=round(before / made, 3),
        seconds=round(seconds, 2),
        timed=timed,
        seconds_leaving=round(ours[0], 2),
        seconds_fixed=round(theirs[0], 2),
        seconds_transformers=round(stock[0], 2),
        faster=round(theirs[0] / ours[0], 3),
        faster_than_transformers=round(stock[0] / ours[0], 3),
        same_texts=sum(ours[1][i] == theirs[1][i] == stock[1][i] for i in ours[1]),
    )


def measure_extraction(model: kv.Model, clock: measure.Clock, pairs: int, shared: bool) -> dict[str, Any]:
    """Seconds of a plain loop over those of `kv.extract`; one example in each prompt, or five that all share."""
    task = kv.tasks.get("tiny-arithmetic")
    made = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=pairs, shots=1, seed=0)
    if shared:
        sets = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=1, shots=5, seed=0)
        questions = [task.chat(question) for question in task.questions("extraction", n=pairs + 20)][20:]
        template = model.tokenizer.apply_chat_template
        last = [template(chat, tokenize=False, add_generation_prompt=True) for chat in questions]
        sides = [[side[0] + text for text in last] for side in (sets.positive, sets.negative)]
        made = kv.ContrastiveSet.from_texts(*sides)
    rows = [encode(model.tokenizer, text) for side in (made.positive, made.negative) for text in side]

    @torch.no_grad()
    def loop() -> list[torch.Tensor]:
        found = []
        for row in rows:
            passed = model.hf(input_ids=torch.tensor([row]), use_cache=True, logits_to_keep=1)
            found.append(torch.stack([layer.values[0, :, -1] for layer in cache_of(passed).layers]))
        return found

    runs = {
        "loop": lambda: clock.time(loop),
        "extract": lambda: clock.time(lambda: kv.extract(model, made, progress=False)),
    }
    found = measure.rounds(runs, 3)
    half = len(rows) // 2
    plain = torch.stack(found["loop"][0][1])
    error = ((plain[:half] - plain[half:]).mean(0) - found["extract"][0][1].values).abs().max()
    seconds = {name: [run[0] for run in values] for name, values in found.items()}
    return dict(
        what="extraction, examples that all prompts share" if shared else "extraction, short prompts",
        prompts=len(rows),
        prompt_tokens=sum(map(len, rows)),
        seconds={name: measure.spread(values) for name, values in seconds.items()},
        loop_over_extract=measure.ratio(seconds["loop"], seconds["extract"]),
        largest_error=float(error),
    )


if __name__ == "__main__":
    tyro.cli(main)
