"""Rules that read words out of a reply: what it states after "the answer is", a label as in "**Answer:**", a box or
`<answer>`.

Words end where the statement does: at the end of the sentence or line, before "because" and the like, or where one of
the task's known answers ends. They are compared in one form (`said`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache, partial

from ..base import Question, Rule
from .reply import BOX, END, in_ascii, is_denied, own_reply, without_markup

_WINDOW = 500
"""How far a statement reaches, in characters."""
_EDGES = " .,;:!?*_`\"'“”‘()[]{}$" + BOX + END


def said(words: str) -> str:
    """Words in the form in which they are compared: lower case, composed characters (NFC), without an article before
    and without marks around them.

    >>> said("The **Eiffel Tower**."), said("Zu\u0308rich") == said("Z\u00fcrich")
    ('eiffel tower', True)
    """
    composed = unicodedata.normalize("NFC", in_ascii(words)).lower().replace("’", "'")
    bare = " ".join(composed.split()).strip(_EDGES)
    return re.sub(r"^(?:the|an?) ", "", bare).strip(_EDGES)


def last_said(question: Question, text: str, known: Collection[str] = frozenset()) -> str | None:
    """The words that the reply states last; `None` if it states none.

    Args:
        question: not looked at; every rule takes one.
        text: the reply.
        known: answers of the task, as `said` gives them: where the statement begins with one of them, that is what is
            read.

    >>> last_said(None, "The answer is **Yes**, because it rains."), last_said(None, "Yes.")
    ('yes', None)
    >>> last_said(None, "The answer is Paris, France.", known={"paris"})
    'paris'
    """
    stated = _stated(text, known)
    return stated[-1] if stated else None


def strict_said(question: Question, text: str, known: Collection[str] = frozenset()) -> str | None:
    """The one answer that the reply states; `None` if it states none, or several.

    Args:
        question: not looked at.
        text: the reply.
        known: as in `last_said`.

    >>> strict_said(None, "The answer is yes."), strict_said(None, "The answer is yes. No, the answer is no.")
    ('yes', None)
    """
    stated = set(_stated(text, known))
    return stated.pop() if len(stated) == 1 else None


def word_rules(answers: Iterable[str]) -> Mapping[str, Rule]:
    """The rules for a task whose answers are words, the main one first.

    Args:
        answers: the task's gold answers, as they are written.

    >>> word_rules(["yes", "no"])["last_said"](None, "The answer is yes - it rains.")
    'yes'
    """
    known = frozenset(map(said, answers))
    return {"last_said": partial(last_said, known=known), "strict": partial(strict_said, known=known)}


# --- what is stated -------------------------------------------------------------------------------------------

_STATEMENT = re.compile(
    r"\banswer(?:[ \t]+(?:here|then|to (?:the|this) question))?[*_]{0,3}"
    r"[ \t]+(?:is|was|would be|will be|should be|must be)\b"
    r"|(?:(?:^[^\w\n]{0,9}|(?<=[.!?][ \t])[*_]{0,3})(?:the[ \t]+)?|\b(?:final|correct|right|best|my)[ \t]+)"
    r"answer[*_]{0,3}[ \t]{0,3}[:=]"
    rf"|{BOX}|<answer>",
    re.IGNORECASE | re.MULTILINE,
)
_OPEN = re.compile(r"[ \t:=*_`\"'“‘(\[{$" + BOX + r"]*(?:\n[\s*_`\"'“‘(\[{$" + BOX + r"]*(?=\S))?")
_NOT = re.compile(r"not\b", re.IGNORECASE)
_SURELY = re.compile(
    r"(?:(?:(?:most |very )?likely|probably|presumably|definitely|certainly|clearly|obviously|undoubtedly|therefore"
    r"|thus|indeed)[,:]?[ \t]+){1,3}[*_`\"'“‘(\[{$" + BOX + r"]*(?=\w)",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:St|Ste|Mr|Mrs|Ms|Dr|Prof|Jr|Sr|Mt|Ft|No|vs|Inc|Ltd|Co|Lt|Col|Gen|Sgt|Rev|Hon)|(?:^|[\s.])[A-Z])$"
)
_STOP = re.compile(r"[.!?;](?=[\s*_`\"'”’)\]}$" + END + r"]|$)|:(?=\s|$)|\n|</answer>|" + END)
_REASON = re.compile(
    r"[*_\"”’)]*(?:,?[ \t]+(?:because|since|due to|given that|although|though|but|whereas"
    r"|as (?:it|they|he|she|we|the|there|this|that|you|I))\b"
    r"|,[ \t]+(?:as|so|which|who|where|when|while|for|if|not|and not|assuming|i\.e|that is|meaning)\b"
    r"|[ \t]+[-–—]+[ \t]|[ \t]+\(|—)",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(r"[.,;:!?)\"”’*_`\]}$" + END + r"\n-]|[ \t]|$")


def _stated(text: str, known: Collection[str]) -> list[str]:
    """What the reply states, in order."""
    reply, answers = without_markup(in_ascii(own_reply(text))), frozenset(known)
    tails = [reply[m.end() : m.end() + _WINDOW] for m in _STATEMENT.finditer(reply) if not is_denied(reply, m.start())]
    return [words for tail in tails if (words := _words_at_start(tail, answers))]


@lru_cache(maxsize=256)  # a reply in a loop states the same again and again
def _words_at_start(text: str, known: frozenset[str]) -> str | None:
    opening = _OPEN.match(text)
    line = text[opening.end() if opening else 0 :].partition("\n")[0]
    if found := _known_at_start(line, known):
        return found
    if surely := _SURELY.match(line):
        line = line[surely.end() :]
        if found := _known_at_start(line, known):
            return found
    if _NOT.match(line):
        return None
    if reason := _REASON.search(line):
        line = line[: reason.start()]
    for stop in _STOP.finditer(line):
        is_last = not line[stop.end() :].strip(" *_`\"'”’)]}$." + END)
        if stop[0] != "." or is_last or not _ABBREVIATION.search(line, 0, stop.start()):
            return said(line[: stop.start()]) or None
    return said(line) or None


def _known_at_start(line: str, known: frozenset[str]) -> str | None:
    """The longest of the known answers with which the line begins."""
    for end in reversed(list(_boundaries(line[: _longest(known) + 40]))) if known else ():
        if said(line[:end]) in known:
            return said(line[:end])
    return None


def _boundaries(line: str) -> Iterator[int]:
    """Where a statement may end: before marks of any kind and before a reason, but not between two words."""
    for match in _BOUNDARY.finditer(line):
        if match[0] not in (" ", "\t") or _REASON.match(line, match.start()):
            yield match.start()


@lru_cache(maxsize=32)
def _longest(known: frozenset[str]) -> int:
    return max(map(len, known), default=0)
