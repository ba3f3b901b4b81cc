"""A reply's lines and sentences, without markdown: what all cues are looked for in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_TOKEN = re.compile(r"<\|[a-z_]{1,24}\|>|</?s>|<(?:end|start)_of_turn>|<eos>")
_MARKDOWN = re.compile(
    r"\*{2,3}|_{2,3}|`{1,3}|^[#>\s]+|(?:^|(?<=[ (\"]))[*_](?=[^\W\d_]|[\"'])|(?<=[^\s\d)])[*_](?=[\s,.:;!?)\"]|$)"
)
_SENTENCE = re.compile(r"(?<=[.!?:;]) ")
BULLET = re.compile(
    r"(?:[-•*–+] |\(?\d{1,2}(?:[.):]|\)\.) |(?P<letter>(?:(?:option|choice) )?\(?[A-H](?:\):|[).:])(?: |$)))",
    re.IGNORECASE,
)
"""What an item of a list begins with: a bullet, a number or the letter of a choice."""
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_WORDS = 3


@dataclass(frozen=True)
class Layout:
    """A reply without markdown and special tokens: its lines, and the sentences in them.

    Attributes:
        lines: those that aren't empty, white space reduced to single spaces.
    """

    lines: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Layout:
        """The layout of a reply.

        >>> Layout.of("### Step 1\\n\\n**Add** them.  Then stop.").lines
        ('Step 1', 'Add them. Then stop.')
        """
        lines = (" ".join(line.split()) for line in _TOKEN.sub("", text).replace("’", "'").splitlines())
        return cls(tuple(plain for line in lines if (plain := _without_markdown(line))))

    @cached_property
    def text(self) -> str:
        """All lines as one."""
        return " ".join(self.lines)

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The sentences, without the bullet or number that a line begins with; what follows a colon counts as one."""
        return tuple(part for line in self.lines for part in _SENTENCE.split(without_bullet(line)) if part)


def _without_markdown(line: str) -> str:
    """A line without emphasis, heading or quote marks; a bullet stays a bullet."""
    bullet = "- " if line[:2] in ("* ", "- ", "+ ", "• ") else ""
    return (bullet + _MARKDOWN.sub("", line[len(bullet) :]).strip()).strip()


def without_bullet(line: str) -> str:
    """A line without the bullet, number or letter that it begins with.

    >>> without_bullet("- Milk"), without_bullet("(B) Milk")
    ('Milk', 'Milk')
    """
    match = BULLET.match(line)
    return line[match.end() :] if match else line


def in_words(sentence: str, least: int = _WORDS) -> bool:
    """Whether a sentence has some words of three or more letters; a cue inside a reply counts in such sentences only.

    >>> in_words("Now she has 9 + 8 = 17 pencils."), in_words("9 + 8 = 17.")
    (True, False)
    """
    return len(_LONG_WORD.findall(sentence)) >= least


def letter_of(line: str) -> re.Match[str] | None:
    """The letter of a choice that a line begins with, or that follows its bullet.

    >>> letter_of("- B: fridge")["letter"], letter_of("Milk")
    ('B: ', None)
    """
    match = BULLET.match(line)
    if match and not match["letter"]:
        match = BULLET.match(line, match.end())
    return match if match and match["letter"] else None


def after_choices(layout: Layout) -> str:
    """The reply without a list of choices that it opens with; the whole reply if it gives one choice only.

    >>> after_choices(Layout.of("A: oven\\nB: fridge\\nThe answer is B.")), after_choices(Layout.of("B: fridge"))
    ('The answer is B.', 'B: fridge')
    """
    found = [letter_of(line) for line in layout.lines]
    length = next((place for place, match in enumerate(found) if match is None), len(found))
    letters = {match["letter"].strip("(). :")[-1].upper() for match in found[:length] if match}
    return " ".join(layout.lines[length:]) if len(letters) > 1 else layout.text
