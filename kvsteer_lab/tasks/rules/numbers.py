"""Rules that read a number out of a reply.

A number is read where the reply *states* it: after a mark (`####`, "the answer is", a label as in "**Answer:**", a
LaTeX box, `<answer>`), or where the number is the whole reply. Another reply without a mark has no reading;
`last_number` is the rule that then takes the last number of all. Numbers come back in one plain form (`plain`), so that
they can be compared as strings. Every rule takes a time that is linear in the length of the reply.
"""

from __future__ import annotations

import logging

from ..base import Question
from .decimals import NUMBER, is_number, plain, quotient
from .reply import in_ascii, own_reply, prepared
from .stated_numbers import statements_backwards

_LONGEST = 10_000
"""How much of a reply's end the package math-verify is given: its time isn't linear."""


def marked_number(question: Question, text: str) -> str | None:
    r"""The number that the reply states last; `None` if it has no mark, or if what is stated there isn't one number.

    After a mark may stand bold marks, LaTeX, a currency, "about", a unit; a calculation is read by its result. Where
    words come first ("The answer is that she makes $18"), the only number of that line is read. "5 or 6", "3:00" and an
    unfinished calculation are not read, nor a number that is denied, asked, or considered ("if the answer is 5").

    Args:
        question: not looked at; every rule takes one.
        text: the reply.

    >>> marked_number(None, r"**Answer:** \$18 for 9 eggs"), marked_number(None, "She sells 9 eggs.")
    ('18', None)
    """
    denied: set[str | None] = set()
    for statement in statements_backwards(prepared(text)):
        if not statement.denied:
            return None if statement.value in denied else statement.value
        denied.add(statement.value)
    return None


def strict_number(question: Question, text: str) -> str | None:
    """The one number that the reply states, right after a mark; `None` if it states none, different ones, or something
    else there.

    >>> strict_number(None, "#### 18"), strict_number(None, "The answer is 5. No, the answer is 6.")
    ('18', None)
    """
    statements = list(statements_backwards(prepared(text)))
    stated = {None if s.loose else s.value for s in statements if not s.denied}
    return stated.pop() if len(stated) == 1 and not stated & {s.value for s in statements if s.denied} else None


def last_number(question: Question, text: str) -> str | None:
    """The number that `marked_number` reads, and where the reply has no mark at all, its last number: a guess, for
    comparison.

    >>> last_number(None, "9 eggs make 18 dollars"), last_number(None, "The answer is 18. It took 2 days.")
    ('18', '18')
    """
    reply = prepared(text)
    if any(not statement.denied for statement in statements_backwards(reply)):
        return marked_number(question, text)
    found = NUMBER.findall(reply)
    return plain(found[-1]) if found else None


def math_verify(question: Question, text: str) -> str | None:
    r"""The number that the package math-verify finds: it knows LaTeX, boxes, fractions and units. A percentage is its
    number (50% is 50).

    It has its own fallbacks, so it, too, may take a number that nothing marks. Its time limit needs signals, which only
    the main thread has, so it is off.
    Instead nothing is evaluated but sums and products of numbers: a power, a root or an equation gives `None`.

    >>> math_verify(None, r"The answer is $\frac{6}{4}$.")
    '1.5'
    """
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that the time limit is off
    import math_verify as package
    from sympy import Basic, nsimplify, preorder_traversal

    try:
        found = package.parse(in_ascii(own_reply(text))[-_LONGEST:], parsing_timeout=None)
        if not found:
            return None
        if is_number(found[-1].rstrip(".")):
            return plain(found[-1].rstrip("."))
        value = found[0]
        if not isinstance(value, Basic) or not all(
            n.is_Number or n.is_Add or n.is_Mul or (n.is_Pow and n.exp == -1) for n in preorder_traversal(value)
        ):
            return None
        exact = nsimplify(value.doit(), rational=True)
        return quotient(str(exact.p), str(exact.q)) if exact.is_Rational else None
    except Exception:  # whatever a parser of free text stumbles on is no answer
        return None
