"""HTML shown in notebooks, and the escaping of text in it."""

from __future__ import annotations

import difflib
import html
import re
from dataclasses import dataclass, field

CELL = "text-align:left;vertical-align:top;max-width:24em;white-space:pre-wrap;"
_ONLY_HERE = "background:#e69f0055;"  # legible on light and dark pages
_EXTRACTED = "outline:2px solid #0072b2;"


@dataclass(frozen=True)
class Html:
    """Something to show in a notebook."""

    text: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.text


def escape(text: object) -> str:
    """Text as HTML that shows it unchanged."""
    return html.escape(str(text))


def pair_html(positive: str, negative: str, last_token: str | None) -> str:
    """Two prompts side by side; words that only one has are marked, the extracted token is framed."""
    sides = [re.findall(r"\s+|\w+|[^\w\s]", text) for text in (positive, negative)]
    marked = ["", ""]
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, sides[0], sides[1], autojunk=False).get_opcodes():
        for side, (start, end) in enumerate(((a0, a1), (b0, b1))):
            text = escape("".join(sides[side][start:end]))
            marked[side] += text if kind == "equal" or not text else f"<span style='{_ONLY_HERE}'>{text}</span>"
    cells = ""
    for text, full in zip(marked, (positive, negative), strict=True):
        token = last_token if last_token and full.endswith(last_token) else full[-1]
        shown = escape(token)
        if text.endswith(shown):
            text = (
                text[: len(text) - len(shown)]
                + f"<span style='{_EXTRACTED}' title='extracted'>{shown.replace(chr(10), '↵')}</span>"
            )
        cells += f"<td style='{CELL}'>{text}</td>"
    key = (
        f"<span style='{_ONLY_HERE}'>only on this side</span> &nbsp; <span style='{_EXTRACTED}'>token whose keys and"
        " values are extracted</span>"
    )
    head = "<tr><th style='text-align:left'>positive</th><th style='text-align:left'>negative</th></tr>"
    return f"<p>{key}</p><table style='width:100%'>{head}<tr>{cells}</tr></table>"
