"""Texts under interventions, all of them through the one path."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from transformers import GenerationConfig

from .._util.progress import bar
from ..interventions.base import Intervention
from ..interventions.checks import check_interventions
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from ..models.tokens import offset_token
from .asking import ask_all
from .backend import Backend, Finished, check_backend
from .outputs import Generation, Generations
from .rows import Row, check_context, group_rows, window_warning
from .running import decode_queue
from .settings import Settings, resolve
from .stopping import read_said


def generate(
    model: Model,
    prompts: Prompt | Iterable[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    backend: Backend | None = None,
    progress: bool = False,
) -> Generations:
    """Generate one text a prompt x intervention x sample.

    Interventions share a prompt's prefill and decode as one forked batch, whatever their vectors, coefficients, layers
    and heads. With a coefficient of 0 the tokens are those of `model.hf.generate` on the prompt and the offset token.
    What else is in the batch changes no row's text.

    Args:
        model: from `kv.load`.
        prompts: a user's message or a chat, or several in any sequence; with `chat=False`, texts taken verbatim. A chat
            that ends with the assistant is continued.
        interventions: what to compare; `None`: the baseline, nothing added.
        chat: whether prompts are rendered with the chat template.
        offset: the one token that is read from the steered cache; `None` only where nothing is steered.
        generation: `max_new_tokens` (128), `do_sample` (greedy unless asked), `temperature`, ... as in transformers:
            sampling is from the 50 likeliest tokens unless the caller or the checkpoint says otherwise (`top_k`).
            `stop_strings`: texts before which a reply ends; of a template in plain text, the next question unless told
            otherwise (`[]`: none).
        samples: texts for each prompt and intervention; more than one needs `do_sample`.
        seed: of the noise, which belongs to (seed, prompt, sample, step) and is shared by all interventions.
        batch_size: rows decoded together at most. They are fewer where they wouldn't fit into half of the free memory
            (the environment variable `KVSTEER_MEMORY` sets another number of gigabytes), and are halved where it runs
            out. Rows that have ended make room for the next.
        backend: what decodes, from `kv.backends`; `None`: transformers in this process. Prompts, labels and seeds are
            the same; what a backend can't do is refused by name.
        progress: whether to show a bar.

    Returns:
        Rows in the order prompt, intervention, sample. After Ctrl-C, those that were finished, `complete=False`, and a
        warning.

    Raises:
        ValueError: bad prompts, offset, settings, or vectors of another model, before anything is computed; and later
            where the model's logits become NaN or infinite.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> found = kv.generate(model, "What is 2 + 3?", [kv.Nothing(), kv.NoOffset()], generation={"max_new_tokens": 4})
    >>> [len(ids) for ids in found.token_ids]
    [4, 4]
    """
    job = Job.plan(
        model,
        prompts,
        interventions,
        chat=chat,
        offset=offset,
        generation=generation,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        backend=backend,
    )
    texts = job.run_until_interrupted(progress)
    if not texts.complete:
        done = f"{len(job.done)} of {len(job.rows)} texts are finished and returned"
        warnings.warn(f"Interrupted: {done}.", stacklevel=2)
    return texts


def generate_all(
    model: Model,
    prompts: Prompt | Iterable[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    backend: Backend | None = None,
    progress: bool = False,
) -> Generations:
    """All texts, or none: as `generate`, but Ctrl-C is raised. For whatever goes on to compute with the texts.

    Args:
        model, prompts, interventions, chat, offset, generation, samples, seed, batch_size: as in `generate`.
        backend, progress: as in `generate`.

    Returns:
        Every row.

    Raises:
        ValueError: as `generate`.
        KeyboardInterrupt: Ctrl-C; nothing is returned.

    >>> import kvsteer_lab as kv
    >>> generate_all(kv.load("tiny"), "What is 2 + 3?", generation={"max_new_tokens": 4}).complete
    True
    """
    job = Job.plan(
        model,
        prompts,
        interventions,
        chat=chat,
        offset=offset,
        generation=generation,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        backend=backend,
    )
    job.run(progress)
    return job.result()


@dataclass
class Job:
    """Texts to be generated, and those that are."""

    model: Model
    given: list[Prompt]
    settings: Settings
    rows: list[Row]
    index: list[tuple[int, str, int]]
    seed: int
    batch_size: int
    backend: Backend | None = None
    done: dict[int, Generation] = field(default_factory=dict)

    @classmethod
    def plan(
        cls,
        model: Model,
        prompts: Prompt | Iterable[Prompt],
        interventions: Intervention | Sequence[Intervention] | None,
        *,
        chat: bool,
        offset: str | int | None,
        generation: Mapping[str, Any] | GenerationConfig | None,
        samples: int,
        seed: int,
        batch_size: int,
        backend: Backend | None = None,
    ) -> Job:
        """Check everything, and warn of windows; nothing is computed."""
        check_backend(backend)
        given = as_list(prompts)
        settings, rows, index = prepare(
            model, given, interventions, chat=chat, offset=offset, generation=generation, samples=samples
        )
        if said := window_warning(model, rows, settings.max_new_tokens):
            warnings.warn(said, stacklevel=3)
        if backend is not None:
            backend.check(model, rows, settings)
        return cls(model, given, settings, rows, index, seed, batch_size, backend)

    def run(self, progress: bool) -> None:
        """Decode group by group."""
        with bar(len(self.rows), "generate", "text", progress) as shown:
            for finished in self._decode():
                for i, ids in finished:
                    self.done[i] = read_row(self.model, self.rows[i], self.index[i], ids, self.settings)
                shown.update(len(finished))

    def _decode(self) -> Iterator[Finished]:
        if self.backend is not None:
            yield from self.backend.decode(self.model, self.rows, self.settings, self.seed)
            return
        for group in group_rows(self.model, self.rows):
            yield from decode_queue(self.model, self.rows, group, self.settings, self.seed, self.batch_size)

    def result(self, complete: bool = True) -> Generations:
        """The finished rows in order."""
        return Generations(tuple(self.done[i] for i in sorted(self.done)), tuple(self.given), complete)

    def run_until_interrupted(self, progress: bool) -> Generations:
        """What is finished at the end or at Ctrl-C, of which the caller says what it means."""
        try:
            self.run(progress)
        except KeyboardInterrupt:
            return self.result(complete=False)
        return self.result()


def check_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention],
    *,
    offset: str | int | None,
    generation: Mapping[str, Any] | GenerationConfig | None,
    samples: int,
    backend: Backend | None = None,
) -> None:
    """Refuse what `generate` would refuse on these chats, and compute nothing: for long work that is done in parts.

    Args:
        model, prompts, interventions, offset, generation, samples, backend: as in `generate`.

    Raises:
        ValueError: as `generate`.

    >>> import kvsteer_lab as kv
    >>> check_prompts(kv.load("tiny"), ["2 + 2?"], [kv.Nothing()], offset="\\n", generation=None, samples=1)
    """
    check_backend(backend)
    settings, rows, _ = prepare(
        model, prompts, interventions, chat=True, offset=offset, generation=generation, samples=samples
    )
    if backend is not None:
        backend.check(model, rows, settings)


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
    if isinstance(samples, bool) or not isinstance(samples, Integral):
        raise ValueError(f"samples must be a whole number, not {samples!r}.")
    if samples < 1 or (samples > 1 and not settings.sample):
        raise ValueError(
            f"samples={samples} needs generation={{'do_sample': True}}: greedy decoding gives the same text each time."
        )
    token = offset_token(model.tokenizer, offset)
    rows, index = ask_all(model, prompts, methods, chat=chat, offset=token, samples=samples)
    check_context(model, rows, settings.max_new_tokens)
    return settings, rows, index


def read_row(model: Model, row: Row, index: tuple[int, str, int], ids: list[int], settings: Settings) -> Generation:
    """A row's new tokens as a generation.

    The response prefill and new tokens are decoded together and then parted, for some tokenizers (SentencePiece) drop
    the space before a token that is decoded alone.

    Args:
        model: whose tokenizer decodes.
        row: what was generated from.
        index: its prompt, label and sample.
        ids: new tokens, the end token or a stop string's last token among them.
        settings: which tell the end tokens and stop strings.

    Returns:
        The generation: `forced + text` is what the model has said.
    """
    said = read_said(settings.stop, settings.eos, ids, row.forced)
    own = said.ids if said.finish_reason == "stop" else ids
    forced = str(model.tokenizer.decode(list(row.forced), skip_special_tokens=True))
    return Generation(*index, text=said.text, token_ids=tuple(own), finish_reason=said.finish_reason, forced=forced)
