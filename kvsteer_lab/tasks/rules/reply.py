"""What all rules share: the part of a reply that can hold its answer, in plain characters, and the statements that are
taken back or only considered.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ..thoughts import after_thoughts

BOX, END = "\x02", "\x03"
"""What stands around the contents of a LaTeX box in a prepared reply."""

# --- characters -----------------------------------------------------------------------------------------------

_OTHER = {
    "−": "-",
    "‐": "-",
    "‑": "-",
    "⁄": "/",
    "∕": "/",
    "٫": ".",
    "٬": ",",
    "٪": "%",
    "。": ". ",
    "、": ", ",
    "\u3000": " ",
    "￥": "¥",
    "￡": "£",
}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))")
_VULGAR = re.compile(r"(\d?)([¼-¾⅐-⅞])")


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    if character in _OTHER:
        return _OTHER[character]
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    if "\uff01" <= character <= "\uff5e":  # the full-width forms of ASCII
        return chr(ord(character) - 0xFEE0)
    return " " if unicodedata.category(character) == "Zs" else character


def in_ascii(text: str) -> str:
    """The text with digits of any script, full-width letters and marks, typographic minus signs and spaces as their
    ASCII forms.

    >>> in_ascii("１８。 ١٨ −5 2½")
    '18.  18 -5 2 1/2'
    """
    text = _GROUPED.sub(",", text)
    text = _VULGAR.sub(lambda m: (f"{m[1]} " if m[1] else "") + unicodedata.normalize("NFKC", m[2]), text)
    return _NOT_ASCII.sub(lambda m: _plain_character(m[0]), text)


# --- markup ---------------------------------------------------------------------------------------------------

_UNDERLINES = re.compile(r"(?<!\w)_{1,3}(?=[^\W_])|(?<=[^\s_])_{1,3}(?![\w{])")
"""Emphasis by underlines: around words, where a name's or a subscript's are within one."""
_TAG = re.compile(r"</?(?:b|i|u|em|strong|code|span|p|mark)(?: [^<>\n]{0,80})?>", re.IGNORECASE)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|mbox|emph|bf|rm)\s{0,9}\{([^{}]*)\}"
)
_FRACTION = re.compile(r"(?:(\d)\s{0,3})?\\[dtc]?frac\s{0,9}(?:\{([^{}]*)\}\s{0,9}\{([^{}]*)\}|(\d)\s{0,9}(\d))")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{([^{}]*)\}")
_SYMBOLS = {
    r"\$": "$",
    r"\%": "%",
    "{,}": ",",
    r"\,": "",
    r"\!": "",
    r"\;": " ",
    r"\:": " ",
    r"\ ": " ",
    r"\(": " ",
    r"\)": " ",
    r"\[": " ",
    r"\]": " ",
}
_SYMBOLS |= {
    "$$": " ",
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\approx": "≈",
    r"\left": "",
    r"\right": "",
    r"\displaystyle": "",
    r"\quad": " ",
}
_SYMBOL = re.compile(
    "|".join(rf"{re.escape(name)}(?![a-zA-Z])" if name[-1].isalpha() else re.escape(name) for name in _SYMBOLS)
)


def without_markup(text: str) -> str:
    r"""The text without HTML tags, with emphasis by asterisks only, and with simple LaTeX as plain text: fractions as
    `1/2`, `\text{...}` without its wrapping, a box between `BOX` and `END`.

    >>> without_markup(r"\( \frac{1}{2} \) is \$9{,}500").split()
    ['1/2', 'is', '$9,500']
    """
    text = _TAG.sub("", text.replace(BOX, "").replace(END, ""))
    text = _UNDERLINES.sub(lambda m: "*" * len(m[0]), text)
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)
    for _ in range(3):  # as deep as such wrappings lie in one another
        text = _WRAPPED.sub(r" \1 ", text)
    text = _FRACTION.sub(lambda m: (f"{m[1]} " if m[1] else "") + f"{m[2] or m[4]}/{m[3] or m[5]}", text)
    return _BOXED.sub(rf"{BOX}\1{END}", text)


# --- where the reply ends -------------------------------------------------------------------------------------

_NEXT = re.compile(
    r"\n[ \t]*(?:[#*>]{1,6}[ \t]*)?"
    r"(?:(?:(?:next|another|new)[ \t]+)?(?:question|problem|exercise|instruction|prompt|human|user)\b[ \t]*\d{0,4}\**"
    r"[ \t]*[:.)]|example[ \t]+\d{1,4}\**[ \t]*[:.)]|q[ \t]*\d{0,4}[ \t]*:|\[INST\])"
    r"|<\|(?:im_end|im_start|eot_id|end_of_text|endoftext|end|user)\|>|<end_of_turn>|</s>",
    re.IGNORECASE,
)


# "#### 18", an empty line, and a line that asks something with a number in it
_NEXT_WITHOUT_A_NAME = re.compile(
    r"(?P<end>####[^\n#]{1,60}\n)[ \t]*\n(?=[^\n]{0,400}\d)[^\n]{10,1000}\?[ \t]*(?:\n|$)"
)


def own_reply(text: str) -> str:
    r"""The part of a reply that can hold its answer: after its thoughts, and before it runs on into a question of its
    own making.

    >>> own_reply("<think>5?</think>It is 6.\n\nQuestion: How many kites?\nAnswer: 3")
    'It is 6.\n'
    """
    text = after_thoughts(text, unfinished=True)
    if again := _NEXT_WITHOUT_A_NAME.search(text):
        text = text[: again.end("end")]
    for match in _NEXT.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


@lru_cache(maxsize=8)
def prepared(text: str) -> str:
    """The reply as the rules look at it: `own_reply` in ASCII, without markup. Kept for the next rule that reads the
    same reply.
    """
    return without_markup(in_ascii(own_reply(text)))


# --- statements that aren't made ------------------------------------------------------------------------------

_SAYING = r"(?:say|says|said|think|thinks|thought|claim|claims|claimed|believe|believes|believed|guess|guesses|guessed)"
_OTHERS = (
    r"(?:he|she|they|some|people|others|someone|one|many|most|(?-i:[A-Z][a-z]+))"
    r"(?: (?:people|students|might|may|could|would|will|wrongly|mistakenly|also))"
)
_GOVERNED = re.compile(
    r"(?:\b(?:if|whether|unless|suppose|supposing|assume|assuming|imagine|doubt|nor|never|neither|not|cannot)"
    r"|(?:\bnot|n['’]t|\bcannot) (?:think|believe|say|mean|know|see|agree|clear|sure|certain|true|correct|right"
    r"|possible|likely|the case|because|claim|conclude)(?: if)?"
    r"|\b(?:wrong|incorrect|false|mistaken|unlikely|mistake)(?: to (?:say|think|believe|claim|conclude)| if)?"
    rf"|\b{_OTHERS}{{0,3}} {_SAYING})"
    r"(?:,? that)?[ \t]+(?:(?:the|this|that|my|our|his|her|their|your|its|an?|one|correct|right|best|final|only"
    r"|possible|most|likely)[ \t]+){0,4}$",
    re.IGNORECASE,
)


def is_denied(text: str, start: int) -> bool:
    """Whether the words right before `start` deny or condition the statement there ("I don't think that the ...", "If
    the ...").

    A "not" or an "if" elsewhere in the sentence says nothing about it: "If you want many shops, the answer is D" states
    D.

    >>> is_denied("I don't think the answer is B.", 18), is_denied("It is not far, so the answer is B.", 22)
    (True, False)
    """
    return _GOVERNED.search(text[max(0, start - 90) : start]) is not None


_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n|$")


def is_asked(text: str, start: int) -> bool:
    """Whether the sentence from `start` on ends with a question mark.

    >>> is_asked("So is it 5? It is 6.", 0)
    True
    """
    end = _SENTENCE_END.search(text, start, start + 300)
    return end is not None and end[0] == "?"
