"""What generation gives back: one flat row a prompt, intervention and sample; and HTML to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .._util.html import CELL, TextTable
from .._util.text import for_html


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes:
        prompt: number of the prompt.
        intervention: label of the intervention.
        sample: number of the sample.
        text: the new tokens as text, without special tokens.
        token_ids: the new tokens, an end token kept, a stop string left out.
        finish_reason: `"eos"`, `"stop"` where a stop string came next, or `"length"` where `max_new_tokens` cut it.
        forced: words that the intervention put before the text, if any.
    """

    prompt: int
    intervention: str
    sample: int
    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    finish_reason: str = "eos"
    forced: str = ""

    @property
    def answer(self) -> str:
        """The response prefill and the text together: what detectors and scorers read."""
        return self.forced + self.text


@dataclass(frozen=True)
class Generations:
    """Generated texts in row order: by prompt, then intervention, then sample.

    Attributes:
        rows: the texts.
        prompts: the prompts as they were given.
        complete: `False` if the run was interrupted; only finished rows are here.

    Example:
        >>> import kvsteer_lab as kv
        >>> texts = kv.generate(kv.load("tiny"), ["2 + 3?"], generation={"max_new_tokens": 4})
        >>> len(texts), texts[0].intervention, texts.complete
        (1, 'baseline', True)
    """

    rows: tuple[Generation, ...]
    prompts: tuple[Any, ...] = field(repr=False)
    complete: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        labels = ", ".join(dict.fromkeys(row.intervention for row in self.rows))
        return (
            f"Generations({len(self)} texts for {len(self.prompts)} prompts under:"
            f" {labels}{'' if self.complete else '; interrupted'})"
        )

    def __iter__(self) -> Iterator[Generation]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Generation:
        return self.rows[index]

    @property
    def texts(self) -> list[str]:
        """The texts in row order."""
        return [row.text for row in self.rows]

    @property
    def token_ids(self) -> list[list[int]]:
        """The new token ids in row order, end tokens kept."""
        return [list(row.token_ids) for row in self.rows]

    def of(self, intervention: str) -> list[Generation]:
        """The rows of one intervention, by its label."""
        return [row for row in self.rows if row.intervention == intervention]

    def to_frame(self) -> pd.DataFrame:
        """A table with the columns `prompt`, `intervention`, `sample`, `text`, `token_ids`, `finish_reason`,
        `forced`.
        """
        columns = ["prompt", "intervention", "sample", "text", "token_ids", "finish_reason", "forced"]
        return TextTable(
            [[list(v) if c == "token_ids" else v for c in columns for v in [getattr(row, c)]] for row in self.rows],
            columns=columns,
        )

    def _repr_html_(self) -> str:
        labels = list(dict.fromkeys(row.intervention for row in self.rows))
        cells: dict[tuple[int, str], list[Generation]] = {}
        for row in self.rows:
            cells.setdefault((row.prompt, row.intervention), []).append(row)
        head = "".join(f"<th style='text-align:left'>{for_html(label)}</th>" for label in labels)
        body = ""
        for number in dict.fromkeys(row.prompt for row in self.rows):
            shown = _prompt_text(self.prompts[number])
            body += f"<tr><td style='{CELL}opacity:.75'>{for_html(shown)}</td>"
            body += (
                "".join(
                    f"<td style='{CELL}'>{'<hr>'.join(map(_generation_html, cells.get((number, label), [])))}</td>"
                    for label in labels
                )
                + "</tr>"
            )
        note = "" if self.complete else "<p>Interrupted: only finished rows are shown.</p>"
        return f"{note}<table style='width:100%'><tr><th style='text-align:left'>prompt</th>{head}</tr>{body}</table>"


def _prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _generation_html(row: Generation) -> str:
    forced = f"<u>{for_html(row.forced)}</u>" if row.forced else ""
    cut = " <i>[cut at max_new_tokens]</i>" if row.finish_reason == "length" else ""
    return forced + for_html(row.text) + cut
