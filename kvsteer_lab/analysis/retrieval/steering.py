"""Steering towards a chunk as a number: how much likelier its answer becomes, beside random steering of equal size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..._util.batching import in_batches
from ..._util.progress import counted
from ...edits.spans import Chunks
from ...edits.spans.spans import CachedPrompt
from ...generation.elicitation import letter_tokens
from ...generation.rows import Row, check_context, group_rows
from ...generation.scoring import read_rows, rows_under
from ...interventions.base import Intervention, Nothing
from ...interventions.checks import check_interventions
from ...interventions.scaled import Scaled
from ...models.lock import LOCK
from ...models.model import Model
from ...models.prompts import Prompt, as_chat, as_list
from ...stats.intervals import paired_bootstrap
from ...stats.permutation import paired_means_permutation
from ...stats.significance import control_p


def steer_towards_chunks(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    chunks: Chunks,
    answers: Sequence[Sequence[str]],
    openings: Sequence[str],
    steer: Callable[[int], Scaled],
    *,
    which: Sequence[Sequence[int]] | None = None,
    controls: int = 19,
    seed: int = 0,
    offset: str | int = "\n",
    batch_size: int = 32,
    progress: bool = True,
) -> pd.DataFrame:
    """Steer towards chunks one by one, and read what each chunk would answer off the next token.

    Every row reads a reply's opening words from its own edited cache; then the answers are compared by the
    log-probability of the first token that tells them apart.

    Args:
        model: from `kv.load`.
        prompts: chats with chunks.
        chunks: how they are found, as many in every prompt as it has answers.
        answers: per prompt, what each chunk would answer.
        openings: per prompt, the words of the reply that the answer follows.
        steer: from a chunk's number to the steering towards it, such as
            `lambda i: kv.CacheEdits(kv.edits.TowardsChunk(chunks, i), coefficient=4)`.
        which: per prompt, the chunks that are steered towards; `None`: each.
        controls: random controls of equal size for each steering.
        seed: of the controls.
        offset: as in `kv.generate`.
        batch_size: rows read together at most.
        progress: whether to show a bar.

    Returns:
        One row per prompt, chunk and `method` (`"steered"`, `"random 0"`, ...): `log_odds` of the chunk's answer
        against the other chunks' answers in nats, `plain`, the same without steering, `effect`, their difference, and
        `named` and `plain_named`, the chunk whose answer is likeliest.

    Raises:
        ValueError: not one list of answers and one opening a prompt, answers that one token can't tell apart, another
            number of chunks than of answers, or what `kv.generate` refuses.

    Example:
        >>> import kvsteer_lab as kv
        >>> task, lines = kv.tasks.FactFinding(2), kv.spans.Delimited("\\n", after="facts.\\n", before="What")
        >>> asked = task.questions("dev", 1)
        >>> given = [task.chat(asked[0])], lines, [task.answers(asked[0])], [task.opening(asked[0])]
        >>> towards = lambda i: kv.CacheEdits(kv.edits.TowardsChunk(lines, i), coefficient=0)
        >>> table = kv.analysis.steer_towards_chunks(kv.load("tiny"), *given, towards, controls=1, progress=False)
        >>> table.method.tolist(), table.effect.tolist()
        (['steered', 'random 0', 'steered', 'random 0'], [0.0, 0.0, 0.0, 0.0])
    """
    given = as_list(prompts)
    if not len(given) == len(answers) == len(openings) == len(which if which is not None else given):
        raise ValueError(
            f"There are {len(given)} prompts, but {len(answers)} lists of answers and {len(openings)} openings; pass"
            " one of each a prompt."
        )
    for number, (prompt, own) in enumerate(zip(given, answers, strict=True)):
        known = CachedPrompt.of(model.tokenizer, model.encode(prompt), as_chat(prompt))
        if len(own) < 2 or len(chunks.find(known)) != len(own):
            raise ValueError(
                f"Prompt {number} has {len(chunks.find(known))} chunks but {len(own)} answers; pass one a chunk, and at"
                " least two."
            )
    found = []
    with counted(len(given), "steer_towards_chunks", "prompt", progress) as done:
        for number, prompt in enumerate(given):
            targets = list(range(len(answers[number])) if which is None else which[number])
            steered = [steer(i) for i in targets]
            methods = [Nothing(), *(m for one in steered for m in (one, *one.controls(controls, seed)))]
            logprobs = _next(model, prompt, methods, answers[number], openings[number], offset, batch_size)
            for place, chunk in enumerate(targets):
                first = 1 + place * (controls + 1)
                moved, plain = logprobs[first : first + controls + 1], logprobs[0]
                found.append(
                    pd.DataFrame(
                        {
                            "prompt": number,
                            "chunk": chunk,
                            "method": ["steered", *(f"random {seed + i}" for i in range(controls))],
                            "log_odds": _log_odds(moved, chunk),
                            "plain": float(_log_odds(plain, chunk)),
                            "named": moved.argmax(-1),
                            "plain_named": int(plain.argmax()),
                        }
                    )
                )
            done(1)
    table = pd.concat(found, ignore_index=True)
    table.insert(5, "effect", table.log_odds - table.plain)
    return table


def summarise_chunk_steering(table: pd.DataFrame, seed: int = 0) -> pd.Series:
    """The effect of steering towards a chunk over prompts: a prompt's chunks are averaged first.

    Args:
        table: from `steer_towards_chunks`; at least two prompts.
        seed: of the resampling.

    Returns:
        `n` prompts; the mean `effect` in nats with its 95% bootstrap interval `low`, `high` and the paired permutation
        test `p` against no steering; `random`, the controls' mean effect, with their middle 95% `random_low`,
        `random_high`; `beyond`, the effect less the controls' mean, paired by prompt, with `beyond_low`, `beyond_high`
        and `p_beyond`; `p_random`, the share of controls (plus one) that reach the effect; `named` and `plain_named`,
        how often the steered chunk's answer is the likeliest. Without controls theirs are missing.

    Raises:
        ValueError: a single prompt.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(p, 0, m, e, 0.0, e, 0, 1) for p in (0, 1) for m, e in (("steered", 2.0 + p), ("random 0", 0.5))]
        >>> names = ["prompt", "chunk", "method", "log_odds", "plain", "effect", "named", "plain_named"]
        >>> found = kv.analysis.summarise_chunk_steering(pd.DataFrame(rows, columns=names))
        >>> float(found.effect), float(found.beyond), float(found.p_random)
        (2.5, 2.0, 0.5)
    """
    ours, others = table[table.method == "steered"], table[table.method != "steered"]
    each = ours.groupby("prompt").effect.mean()
    zero = [0.0] * len(each)
    mean = paired_bootstrap(each.tolist(), zero, seed=seed)
    said = {
        "n": len(each),
        **dict(effect=mean.value, low=mean.low, high=mean.high),
        "p": paired_means_permutation(each.tolist(), zero, seed=seed),
    }
    if len(others):
        drawn = others.groupby("method").effect.mean()
        beside = others.groupby("prompt").effect.mean().loc[each.index]
        beyond = paired_bootstrap(each.tolist(), beside.tolist(), seed=seed)
        said |= {
            "random": drawn.mean(),
            **dict(zip(("random_low", "random_high"), np.quantile(drawn, [0.025, 0.975]), strict=True)),
            **dict(beyond=beyond.value, beyond_low=beyond.low, beyond_high=beyond.high),
            "p_beyond": paired_means_permutation(each.tolist(), beside.tolist(), seed=seed),
            "p_random": control_p(mean.value, drawn.tolist()),
        }
    said |= {name: float((ours[name] == ours.chunk).mean()) for name in ("named", "plain_named")}
    return pd.Series(said)


@torch.no_grad()
def _next(
    model: Model,
    prompt: Prompt,
    methods: Sequence[Intervention],
    answers: Sequence[str],
    opening: str,
    offset: str | int,
    batch_size: int,
) -> Float[np.ndarray, "methods answers"]:
    """Log-probabilities of the answers behind the opening words, under each method."""
    words = letter_tokens(model.tokenizer, opening, answers)
    tokens = [words.letters[answer] for answer in answers]
    rows: list[Row] = []
    for method in check_interventions(model, list(methods)):
        (row,) = rows_under(model, method, [prompt], chat=True, offset=offset)
        rows.append(replace(row, tail=(*row.tail, *words.closing, *words.shared)))
    check_context(model, rows, 1)
    found = np.zeros((len(rows), len(answers)))

    def read(batch: Sequence[int]) -> list[np.ndarray]:
        with LOCK:
            logits = read_rows(model, [rows[i] for i in batch]).start()[:, -1]
        return list(logits.double().log_softmax(-1)[:, tokens].cpu().numpy())

    for group in group_rows(model, rows):
        for batch, part in in_batches(group, batch_size, read):
            found[list(batch)] = part
    return found


def _log_odds(logprobs: Float[np.ndarray, "*some answers"], number: int) -> Float[np.ndarray, "*some"]:
    rest = np.delete(logprobs, number, -1)
    return np.asarray(logprobs[..., number] - np.logaddexp.reduce(rest, -1))
