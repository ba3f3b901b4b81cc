"""Rules that read the label of a choice out of a reply.

`two_stage` reads what the model wrote after the closing words, `strict_choice` what the reply itself states. Both take
letters and digits as labels, through brackets, quotes, bold marks, LaTeX and words such as "option". Several labels, a
list of the options, or a denied label are no answer. Every rule takes a time that is linear in the length of the reply.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping

from .. import paper
from ..base import Question
from .reply import BOX, END, in_ascii, is_asked, is_denied, prepared, without_markup

CLOSING = f"\n{paper.CLOSING}"
"""The words that are put after a finished reply to a multiple-choice question, for the model to complete."""

ANY_CHOICE = Question("", "", "", choices=dict.fromkeys(string.ascii_uppercase + string.digits, ""))
"""A question of any choices, to read a label where the question isn't known."""


def two_stage(question: Question, text: str) -> str | None:
    r"""The label right after the last closing words ("So the correct choice is", else any "correct choice is"); `None`
    if another thing stands there.

    "A dog" is an article unless choice A says "dog".

    Args:
        question: its choices are the labels that count.
        text: the reply, the closing words and what the model wrote after them.

    >>> question = Question("q", "Where?", "B", choices={"A": "bank", "B": "library"})
    >>> two_stage(question, "Books.\nSo the correct choice is Option B: library")
    'B'
    >>> two_stage(question, "Books.\nSo the correct choice is A or B") is None
    True
    """
    for words in (paper.CLOSING, "correct choice is"):
        _, found, tail = text.rpartition(words)
        if found:
            return _one_of(_labels_after(question.choices, without_markup(in_ascii(tail[:_WINDOW]))))
    return None


def strict_choice(question: Question, text: str) -> str | None:
    r"""The one label that the reply itself states as its answer; `None` if it states none, or several.

    Statements are "the answer is", "the best choice would be", a label as in "**Answer:**", a box, `<answer>`, and
    "option B is correct"; a reply that is nothing but a label (and its choice) states it, too. What follows the closing
    words isn't the reply's own and is left out. A statement that is denied, asked or considered ("if the answer is B")
    doesn't count.

    Args:
        question: its choices are the labels that count.
        text: the reply.

    >>> question = Question("q", "Where?", "B", choices={"A": "bank", "B": "library"})
    >>> strict_choice(question, "It isn't A. So the answer is (B).")
    'B'
    >>> strict_choice(question, "I don't think the answer is B.") is None
    True
    """
    reply = prepared(text.rpartition(CLOSING)[0] if CLOSING in text else text)
    tails = {
        reply[match.end() : match.end() + _WINDOW]
        for match in _STATEMENT.finditer(reply)
        if not is_denied(reply, match.start())
    }
    stated = {label for tail in tails for label in _labels_after(question.choices, tail)}
    for match in _CALLED_RIGHT.finditer(reply):
        if (
            match["label"] in question.choices
            and not _LISTED.search(reply, max(0, match.start() - 30), match.start())
            and not is_denied(reply, match.start())
        ):
            stated.add(match["label"])
    if not stated and not _STATEMENT.search(reply):
        return _alone(question.choices, reply.strip())
    return _one_of(stated)


def augmented_extract(question: Question, text: str) -> str | None:
    r"""The paper's main rule, for the letters of the question's own choices (the paper looks for A to E everywhere).

    >>> question = Question("q", "Where?", "B", choices={"A": "bank", "B": "library"})
    >>> augmented_extract(question, "So the correct choice is B.")
    'B'
    """
    return paper.augmented_extract(text, "".join(question.choices))


def last_letter(question: Question, text: str) -> str | None:
    """The paper's second rule, for the letters of the question's own choices: the last such capital, wherever it
    stands.

    >>> last_letter(Question("q", "Where?", "B", choices={"A": "bank", "B": "library"}), "B, As I said.")
    'A'
    """
    return paper.last_letter(text, "".join(question.choices))


# --- what is stated -------------------------------------------------------------------------------------------

_WINDOW = 400
"""How far a statement reaches, in characters."""
_IS = r"(?:is|was|would be|will be|should be|must be|has to be)\b"
_RIGHT = r"(?:correct|right|best|final|most (?:likely|plausible|suitable|appropriate))"
_STATEMENT = re.compile(
    r"(?<!\bthis )(?<!\bthat )(?<!\beach )\b(?:answer|choice|option)"
    rf"(?:[ \t]+(?:here|then|to (?:the|this) question))?[*_]{{0,3}}\s{{1,3}}{_IS}"
    rf"|\b(?:{_RIGHT}|my)[ \t]+(?:answer|choice|option)[*_]{{0,3}}[ \t]{{0,3}}[:=–-]"
    r"|(?:^[^\w\n]{0,9}|(?<=[.!?][ \t])[*_]{0,3})(?:the[ \t]+)?(?:final[ \t]+|correct[ \t]+)?"
    r"answer[*_]{0,3}[ \t]{0,3}(?:[:=–-]|$)"
    r"|\bI(?:'d|'ll| would| will)?[ \t]+(?:choose|pick|select|go with)\b"
    rf"|{BOX}|<answer>|答案(?:是|为|為|:)",
    re.IGNORECASE | re.MULTILINE,
)
_CALLED_RIGHT = re.compile(
    r"(?<![\w'’-])[*_(\[\"“]{0,4}(?P<label>[A-Z0-9])[*_)\]\"”]{0,4}[ \t]+(?:is|would be|must be)[ \t]+"
    r"(?:(?:therefore|thus|clearly|definitely|probably|indeed)[ \t]+)?(?:(?:the[ \t]+)?(?:correct|right|best)"
    r"(?:[ \t]+(?:answer|choice|option|one))?|the[ \t]+answer)"
    r"(?=[*_]{0,3}[ \t]{0,3}(?:[.,;:!\n)]|$|(?:because|since|as|for|here)\b))"
)
"""A label that is called right, as in "option B is the correct answer"."""
_LISTED = re.compile(
    r"(?:\b(?:and|or|nor|not|neither|if|whether|unless|that)|\b[A-Z0-9][)*]{0,3},|/|&)[ \t]*"
    r"(?:(?:the )?(?:option|choice|answer|letter)[ \t]*)?$",
    re.IGNORECASE,
)
_OPEN = r"[\s:*_`\"'“”‘’«(\[{$>=|–" + BOX + "-]{0,24}"
_WORDS = (
    r"(?:I|we) (?:think|believe|guess|choose|pick|say|would say|would choose|would pick)(?: that)?(?: it(?:'s| is))?"
    r"|(?:correct|right|best|final) (?:answer|choice|option)|option|choice|letter|answer|number|the|it is|it's|is|are"
    r"|probably|likely|most likely|clearly|definitely|indeed|therefore|thus|simply|just|only"
)
_OPENING = re.compile(rf"{_OPEN}(?:(?:<answer>|(?:{_WORDS})(?![a-zA-Z])){_OPEN}){{0,6}}", re.IGNORECASE)
"""What may stand between a mark and the label."""
_LABEL = re.compile(r"(?:(?P<label>[A-Z0-9])|(?P<small>[a-z])(?=\)))(?![^\W_]|-\w|['’]\w|[.,/]\d|%)")
_CLOSED = r"[*_`\"'”’»)\]}$>" + END + "]{0,12}"
_ARTICLE = re.compile(
    r"[ \t]+(?!(?:because|since|as|and|or|but|which|for|due|if|when|so|while|with|is|was|would|seems|must|has to"
    r"|should|instead|rather|over|not)\b)"
    r"[a-z]"
)
_WRONG = re.compile(
    rf"{_CLOSED}(?:[ \t]*(?:(?:is|was|would be)[ \t]*)?(?:not|n['’]t|never|wrong|incorrect|false)\b"
    r"|[ \t]*isn['’]t\b|\?)"
)
_MARKED = re.compile(rf"{_CLOSED}[ \t]{{0,2}}[:.)]")
"""The label has its choice after it, which may be a question."""
_JOINED = re.compile(
    rf"{_CLOSED}[ \t.]{{0,2}}(?:,[ \t]*(?:and\b|or\b)?|/|&|\band\b|\bor\b)(?:[ \t]+(?:maybe|perhaps|possibly|even)\b)?"
    rf"[\s*_\"“‘«(\[{{{BOX}]{{0,8}}(?:(?:option|choice|letter)[ \t]+)?"
    r"(?P<label>[A-Z0-9])(?![\w'’-])"
    r"(?![*_)\]\"”]{0,3}[ \t]+(?:(?:is|was|are) (?:not|wrong|incorrect|false|just|only|an?)\b"
    r"|(?:is|was|does|ca|wo)n['’]t\b|cannot\b))(?P<word>[ \t]+[a-z])?",
    re.IGNORECASE,
)
_NEXT_ITEM = re.compile(r"[ \t*_(\[]{0,6}(?P<label>[A-Z0-9])[*_)\]]{0,3}(?:[:.)]|[ \t]*$)", re.MULTILINE)
_SAME_LINE = re.compile(
    r"(?<!\bnot)(?<!\bthan)(?<!\bof)(?P<apart>[,;.][ \t]*|[ \t])(?:and |or )?"
    r"[*_(\[]{0,4}(?P<label>[A-Z0-9])[*_)\]]{0,3}[:)](?![ \t]+(?:is|was|are|would|could|can|may|might|does|has)\b)"
)


def _labels_after(choices: Mapping[str, str], tail: str) -> set[str]:
    """The labels that are stated at the start of `tail`: none where another thing stands there, several in "A or B" and
    in a list of the options.
    """
    match = _LABEL.match(tail, opening.end() if (opening := _OPENING.match(tail)) else 0)
    if match is None:
        return set()
    label, rest = (match["label"] or match["small"].upper()), tail[match.end() :]
    if label not in choices or _WRONG.match(rest) or (is_asked(tail, match.end()) and not _MARKED.match(rest)):
        return set()
    own = _compared(choices[label])
    is_own = bool(own) and _compared(rest).startswith(own)
    # "A dog", "2 kg": an article or an amount, not a label, unless the choice's own words follow.
    if label in "AI0123456789" and _ARTICLE.match(rest) and not is_own:
        return set()
    return set() if _is_list(choices, label, rest) else {label} | _joined_to(choices, rest)


def _alone(choices: Mapping[str, str], reply: str) -> str | None:
    """The label that is, perhaps with its choice, the whole reply."""
    label = _one_of(_labels_after(choices, reply[:_WINDOW]))
    bare = _compared(reply)
    if label is None or bare[:1] != label.casefold():
        return None
    return label if _compared(bare[1:]) in ("", _compared(choices[label])) else None


def _is_list(choices: Mapping[str, str], label: str, rest: str) -> bool:
    """Whether the label begins a list of the options, which states none of them."""
    line, _, following = rest.partition("\n")
    first, second = list(choices)[:2] if len(choices) > 1 else (None, None)
    for match in _SAME_LINE.finditer(line):
        goes_on = match["apart"].strip() or (label, match["label"]) == (first, second)
        if goes_on and match["label"] in choices and match["label"] != label:
            return True
    item = _NEXT_ITEM.match(following.lstrip("\n"))
    return label == first and item is not None and item["label"] == second


def _joined_to(choices: Mapping[str, str], rest: str) -> set[str]:
    """The label that is joined to the first one, as in "A or B"."""
    joined = _JOINED.match(rest)
    if joined is None or joined["label"] not in choices or (joined["word"] and joined["label"] in "AI0123456789"):
        return set()
    return {joined["label"]}


def _one_of(labels: set[str]) -> str | None:
    return next(iter(labels)) if len(labels) == 1 else None


def _compared(text: str) -> str:
    return unicodedata.normalize("NFC", text[:_WINDOW]).strip(" \t\n:.,;*_\"'“”‘’()[]").casefold()
