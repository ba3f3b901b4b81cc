"""The cues of a chain of causes: conditions and conclusions that link one statement to the next."""

from __future__ import annotations

import re

from .layout import Layout, in_words

CONDITION = re.compile(r"(?:if|because|since)\b", re.IGNORECASE)
"""A condition or cause that opens a sentence."""
_LINK = re.compile(
    r"\b(?:because|since|consequently|as a result|(?:this|that|which|it) means)\b"
    r"|(?:^|[,;] |\band )(?:therefore|thus|hence)\b(?! \w+ing\b)|(?:^|, )so\b(?! (?:that|much|many))"
    r"|(?:^|[,;] |\b(?:and|that|but) )if\b[^?,]{3,120}?(?:, | then )",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    r"^(?:so|therefore|thus|hence|consequently),? (?:the |my )?(?:\w{1,12} ){0,3}(?:answer|choice|option)\b",
    re.IGNORECASE,
)
_LINKED, _LINKED_WORDS = 4, 4


def cause_cues(layout: Layout) -> int:
    """Sentences with a link from a cause or condition to what follows from it, if they are one in four at least.

    A reply that opens with a condition needs no other link.

    >>> cause_cues(Layout.of("If it rains then the ground is wet."))
    3
    >>> cause_cues(Layout.of("If it rains, what gets wet?"))
    0
    """
    told = [_CLOSES.sub("", part) for part in layout.sentences if not part.endswith("?")]
    opens = bool(told and layout.sentences[0] == told[0] and CONDITION.match(told[0]))
    links = sum(bool(_LINK.search(part)) for part in told if in_words(part, _LINKED_WORDS))
    return 2 * opens + links * (_LINKED * links >= len(layout.sentences))
