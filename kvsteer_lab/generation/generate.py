"""Texts under interventions, all of them through the one path."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import GenerationConfig

from .._util.batching import in_batches
from .._util.progress import bar
from ..interventions.base import Intervention, Nothing
from ..models.lock import LOCK
from ..models.model import Model
from ..models.prompts import Prompt, as_chat, as_list, offset_token
from .decoding import decode
from .outputs import Generation, Generations
from .rows import Row, check_context, group_rows, make_rows, warn_of_windows
from .settings import Settings, resolve


def generate(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Generations:
    """Generate one text a prompt x intervention x sample.

    Interventions share a prompt's prefill and decode as one forked batch, whatever their vectors, coefficients, layers
    and heads. With a coefficient of 0 the tokens are those of `model.hf.generate` on the prompt and the offset token.

    Args:
        model: from `kv.load`.
        prompts: a user's message or a chat, or several; with `chat=False`, texts taken verbatim.
        interventions: what to compare; `None`: the baseline, nothing added.
        chat: whether prompts are rendered with the chat template.
        offset: the one token that is read from the steered cache; `None` only where nothing is steered.
        generation: `max_new_tokens` (128), `do_sample` (greedy unless asked), `temperature`, ... as in transformers.
        samples: texts for each prompt and intervention; more than one needs `do_sample`.
        seed: of the noise, which belongs to (seed, prompt, sample, step) and is shared by all interventions.
        batch_size: rows decoded together; halved where memory runs out.
        progress: whether to show a bar.

    Returns:
        Rows in the order prompt, intervention, sample. After Ctrl-C, those that were finished.

    Raises:
        ValueError: bad prompts, offset, settings, or vectors of another model; before anything is computed.
    """
    given = as_list(prompts)
    settings, rows, index = prepare(
        model, given, interventions, chat=chat, offset=offset, generation=generation, samples=samples
    )
    warn_of_windows(model, rows, settings.max_new_tokens)
    done: dict[int, Generation] = {}
    complete = True
    try:
        with bar(len(rows), "generate", "text", progress) as shown:
            for group in group_rows(model, rows, holes=not settings.reads_ids):
                for batch, tokens in in_batches(
                    group, batch_size, lambda batch: _decode(model, rows, batch, settings, seed)
                ):
                    for i, ids in zip(batch, tokens, strict=True):
                        done[i] = read_row(model, rows[i], index[i], ids, settings)
                    shown.update(len(batch))
    except KeyboardInterrupt:
        complete = False
        warnings.warn(f"Interrupted: {len(done)} of {len(rows)} texts are finished and returned.", stacklevel=2)
    return Generations(tuple(done[i] for i in sorted(done)), tuple(given), complete)


def generate_all(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Generations:
    """As `generate`, but never a part of the texts: for what is computed from all of them.

    Raises:
        KeyboardInterrupt: the run was interrupted.
        ValueError: as `generate`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Interrupted: ")
        texts = generate(
            model,
            prompts,
            interventions,
            chat=chat,
            offset=offset,
            generation=generation,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    if not texts.complete:
        raise KeyboardInterrupt("interrupted before all texts were generated")
    return texts


def check_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention],
    *,
    offset: str | int | None,
    generation: Mapping[str, Any] | GenerationConfig | None,
    samples: int,
) -> None:
    """Raise what `generate` would raise on these chats, and compute nothing: for long work that is done in parts."""
    prepare(model, prompts, interventions, chat=True, offset=offset, generation=generation, samples=samples)


def prepare(
    model: Model,
    prompts: Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None,
    *,
    chat: bool,
    offset: str | int | None,
    generation: Mapping[str, Any] | GenerationConfig | None,
    samples: int,
) -> tuple[Settings, list[Row], list[tuple[int, str, int]]]:
    """Settings, rows and the rows' index columns (prompt, label, sample); whatever is wrong is raised here."""
    methods = check_interventions(model, interventions)
    settings = resolve(model, generation, chat=chat)
    if samples < 1 or (samples > 1 and not settings.sample):
        raise ValueError(
            f"samples={samples} needs generation={{'do_sample': True}}: greedy decoding gives the same text each time."
        )
    rows, index = _rows(
        model, prompts, methods, chat=chat, offset=offset_token(model.tokenizer, offset), samples=samples
    )
    check_context(model, rows, settings.max_new_tokens)
    return settings, rows, index


def check_interventions(
    model: Model, interventions: Intervention | Sequence[Intervention] | None
) -> list[Intervention]:
    """The interventions as a list, each checked against the model.

    Raises:
        ValueError: none, two with one label, something that is no intervention, or one that doesn't fit.
    """
    single = isinstance(interventions, Intervention) or not isinstance(interventions, Iterable)
    methods: list[Any] = [Nothing() if interventions is None else interventions] if single else list(interventions)  # type: ignore[arg-type]
    if not methods:
        raise ValueError("The list of interventions is empty; leave it out for the baseline.")
    for method in methods:
        if not isinstance(method, Intervention):
            raise ValueError(f"{method!r} is no intervention; use kv.CacheSteering, kv.Nothing and the like.")
        method.check(model)
    labels = [method.label for method in methods]
    double = next((label for label in labels if labels.count(label) > 1), None)
    if double is not None:
        raise ValueError(f"Two interventions are called {double!r}; tell them apart with name=...")
    return methods


def check_intervention(model: Model, intervention: Intervention | None) -> Intervention:
    """One intervention, checked against the model.

    Raises:
        ValueError: several, something that is no intervention, or one that doesn't fit.
    """
    methods = check_interventions(model, intervention)
    if len(methods) > 1:
        raise ValueError(f"Only one intervention can be taken here, not {len(methods)}; call once for each.")
    return methods[0]


def _rows(
    model: Model,
    prompts: Sequence[Prompt],
    methods: Sequence[Intervention],
    *,
    chat: bool,
    offset: int | None,
    samples: int,
) -> tuple[list[Row], list[tuple[int, str, int]]]:
    """All rows in the order of the result, and their index columns."""
    table: dict[tuple[int, int], list[Row]] = {}
    digests = [_digest(p) for p in prompts]
    known: dict[str, list[int]] = {}  # most methods ask the same thing, and rendering is slow
    for m, method in enumerate(methods):
        asked = [method.chat(as_chat(p)) if chat else p for p in prompts]
        known.update({key: model.encode(p, chat=chat) for p in asked if (key := _digest(p)) not in known})
        ids = [known[_digest(p)] for p in asked]
        for p, row in enumerate(make_rows(model, method, ids, offset)):
            table[p, m] = [replace(row, noise_key=f"{digests[p]}|{s}") for s in range(samples)]
    index = [(p, methods[m].label, s) for p in range(len(prompts)) for m in range(len(methods)) for s in range(samples)]
    rows = [row for p in range(len(prompts)) for m in range(len(methods)) for row in table[p, m]]
    return rows, index


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(as_chat(prompt), sort_keys=True).encode()).hexdigest()


def _decode(model: Model, rows: Sequence[Row], batch: Sequence[int], settings: Settings, seed: int) -> list[list[int]]:

    with LOCK:
        return decode(model, [rows[i] for i in batch], settings, seed)


def read_row(model: Model, row: Row, index: tuple[int, str, int], ids: list[int], settings: Settings) -> Generation:
    """A row's new tokens as a generation; `index` is its prompt, label and sample."""
    ended = bool(ids) and ids[-1] in settings.eos
    text = model.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    forced = model.tokenizer.decode(row.forced, skip_special_tokens=True)
    return Generation(
        *index, text=text, token_ids=tuple(ids), finish_reason="eos" if ended else "length", forced=forced
    )
