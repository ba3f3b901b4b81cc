"""What generation gives back: one flat row a prompt, intervention and sample; and HTML to look at."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Html:
    """Something to show in a notebook."""

    text: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.text


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes:
        prompt: number of the prompt.
        intervention: label of the intervention.
        sample: number of the sample.
        text: the new tokens as text, without special tokens.
        token_ids: the new tokens, the end token kept.
        finish_reason: `"eos"`, or `"length"` where `max_new_tokens` cut it.
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
        """Forced words and text together: what detectors and scorers read."""
        return self.forced + self.text


@dataclass(frozen=True)
class Generations:
    """Generated texts in row order: by prompt, then intervention, then sample.

    Attributes:
        rows: the texts.
        prompts: the prompts as they were given.
        complete: `False` if the run was interrupted; only finished rows are here.
    """

    rows: tuple[Generation, ...]
    prompts: tuple[Any, ...] = field(repr=False)
    complete: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        labels = ", ".join(dict.fromkeys(row.intervention for row in self.rows))
        return f"Generations({len(self)} texts for {len(self.prompts)} prompts under: {labels}{'' if self.complete else '; interrupted'})"

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
        """A table with the columns `prompt`, `intervention`, `sample`, `text`, `token_ids`, `finish_reason`, `forced`."""
        columns = ["prompt", "intervention", "sample", "text", "token_ids", "finish_reason", "forced"]
        return pd.DataFrame([[list(v) if c == "token_ids" else v for c in columns for v in [getattr(row, c)]] for row in self.rows], columns=columns)

    def _repr_html_(self) -> str:
        labels = list(dict.fromkeys(row.intervention for row in self.rows))
        cells: dict[tuple[int, str], list[Generation]] = {}
        for row in self.rows:
            cells.setdefault((row.prompt, row.intervention), []).append(row)
        head = "".join(f"<th style='text-align:left'>{html.escape(label)}</th>" for label in labels)
        body = ""
        for number in dict.fromkeys(row.prompt for row in self.rows):
            shown = _prompt_text(self.prompts[number])
            body += f"<tr><td style='{_CELL}opacity:.75'>{_escaped(shown)}</td>"
            body += "".join(f"<td style='{_CELL}'>{'<hr>'.join(map(_generation_html, cells.get((number, label), [])))}</td>" for label in labels) + "</tr>"
        note = "" if self.complete else "<p>Interrupted: only finished rows are shown.</p>"
        return f"{note}<table style='width:100%'><tr><th style='text-align:left'>prompt</th>{head}</tr>{body}</table>"


_CELL = "text-align:left;vertical-align:top;max-width:24em;white-space:pre-wrap;"
_ONLY_HERE = "background:#e69f0055;"  # legible on light and dark pages
_EXTRACTED = "outline:2px solid #0072b2;"


def _prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _escaped(text: str) -> str:
    return html.escape(text)


def _generation_html(row: Generation) -> str:
    forced = f"<u>{_escaped(row.forced)}</u>" if row.forced else ""
    cut = " <i>[cut at max_new_tokens]</i>" if row.finish_reason == "length" else ""
    return forced + _escaped(row.text) + cut


def pair_html(positive: str, negative: str, last_token: str | None) -> str:
    """Two prompts side by side; words that only one has are marked, the extracted token is framed."""
    sides = [re.findall(r"\s+|\w+|[^\w\s]", text) for text in (positive, negative)]
    marked = ["", ""]
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, sides[0], sides[1], autojunk=False).get_opcodes():
        for side, (start, end) in enumerate(((a0, a1), (b0, b1))):
            text = _escaped("".join(sides[side][start:end]))
            marked[side] += text if kind == "equal" or not text else f"<span style='{_ONLY_HERE}'>{text}</span>"
    cells = ""
    for text, full in zip(marked, (positive, negative), strict=True):
        token = last_token if last_token and full.endswith(last_token) else full[-1]
        shown = _escaped(token)
        if text.endswith(shown):
            text = text[: len(text) - len(shown)] + f"<span style='{_EXTRACTED}' title='extracted'>{shown.replace(chr(10), '↵')}</span>"
        cells += f"<td style='{_CELL}'>{text}</td>"
    key = f"<span style='{_ONLY_HERE}'>only on this side</span> &nbsp; <span style='{_EXTRACTED}'>token whose keys and values are extracted</span>"
    head = "<tr><th style='text-align:left'>positive</th><th style='text-align:left'>negative</th></tr>"
    return f"<p>{key}</p><table style='width:100%'>{head}<tr>{cells}</tr></table>"
