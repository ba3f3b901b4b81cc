"""An outcome: what one measures of a reply, with its name and unit."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...tasks.base import Question

SHARE = "share"
"""The unit of outcomes that are true or false of a reply."""


class Reply(str):
    """The whole reply, response prefill included. It is a text; what else is known of it are attributes.

    Attributes:
        tokens: its length in tokens.
        finish_reason: `"eos"`, `"stop"`, or `"length"` where it was cut.
        columns: its whole row of `Results.rows`, by column.

    >>> reply = Reply("The answer is 4.", dict(tokens=6, finish_reason="eos"))
    >>> len(reply.split()), reply.tokens, reply.cut
    (4, 6, False)
    """

    columns: Mapping[str, Any]

    def __new__(cls, text: str, columns: Mapping[str, Any] | None = None) -> Reply:
        """A text with its row."""
        made = super().__new__(cls, text)
        made.columns = columns or {}
        return made

    @property
    def tokens(self) -> int:
        """Its length in tokens."""
        return int(self.columns["tokens"])

    @property
    def finish_reason(self) -> str:
        """What ended it."""
        return str(self.columns["finish_reason"])

    @property
    def cut(self) -> bool:
        """Whether it was cut at `max_new_tokens`."""
        return self.finish_reason == "length"


Measure = Callable[[Question, Reply], float | bool | None]
"""What an outcome computes: a number from a question and a reply; `None` or NaN where it doesn't apply."""


@dataclass(frozen=True)
class Outcome:
    """What is measured of each reply.

    Attributes:
        name: of the table's rows.
        measure: a function from question and reply to a number, or to `None` or NaN where it doesn't apply. The reply
            is a text with further attributes (`Reply`).
        unit: `"share"` for what is true or false of a reply; `"tokens"`, `"words"`, ...; empty: a share if all values
            are 0 or 1.
        description: one sentence.
        is_length: whether a cut reply's value is only a lower bound.

    >>> Outcome("questions asked", lambda question, reply: reply.count("?"))
    Outcome(name='questions asked', unit='', description='')
    """

    name: str
    measure: Measure = field(repr=False)
    unit: str = ""
    description: str = ""
    is_length: bool = field(default=False, repr=False)

    def value(self, question: Question, reply: Reply) -> float:
        """The outcome of one reply; NaN where it doesn't apply.

        Args:
            question: what was asked.
            reply: what was answered.

        Raises:
            ValueError: the function failed, or returned something that is no number, or, of a share, not 0 or 1.
            OSError: from the function, an endpoint that doesn't answer say.

        >>> Outcome("words", lambda question, reply: len(reply.split())).value(None, Reply("The answer is 4."))
        4.0
        """
        try:
            found = self.measure(question, reply)
        except (ValueError, OSError):
            raise
        except Exception as error:  # the user's own code
            where = f" on question {question.id!r}" if question is not None else ""
            raise ValueError(
                f"The outcome {self.name!r} failed{where} ({type(error).__name__}: {error}); mend the function."
            ) from error
        if found is None:
            return math.nan
        try:
            number = float(found)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The outcome {self.name!r} gave {found!r}, a {type(found).__name__}; return a number, or None where it"
                " doesn't apply."
            ) from error
        if math.isinf(number) or (self.unit == SHARE and not math.isnan(number) and number not in (0.0, 1.0)):
            allowed = "0 or 1" if self.unit == SHARE else "a finite number"
            raise ValueError(
                f"The outcome {self.name!r} gave {found!r}; return {allowed}, or None where it doesn't apply."
            )
        return number


def as_outcomes(given: Any, built_in: Mapping[str, Outcome]) -> tuple[Outcome, ...]:
    """Outcomes from what may be named, passed as functions, or made.

    Args:
        given: one or several of: an `Outcome`, something with an `outcome` attribute that is one, the name of a
            built-in one, a function from question and reply to a number.
        built_in: those with names.

    Returns:
        The outcomes in order.

    Raises:
        ValueError: an unknown name, a function that doesn't take a question and a reply, something else, or two
            outcomes with one name.

    >>> import kvsteer_lab as kv
    >>> def exclaims(question, reply):
    ...     "Whether the reply exclaims."
    ...     return "!" in reply
    >>> [outcome.name for outcome in as_outcomes(["words", exclaims], kv.outcomes.BUILT_IN)]
    ['words', 'exclaims']
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    found = tuple(_as_outcome(one, built_in) for one in (given if several else [given]))
    names = [outcome.name for outcome in found]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(
            f"Two outcomes are called {double!r}; give one of them another name: kv.outcomes.Outcome(...)."
        )
    return found


def _as_outcome(given: Any, built_in: Mapping[str, Outcome]) -> Outcome:
    own = getattr(given, "outcome", given)
    if isinstance(own, Outcome):
        _check_parameters(own.measure, own.name)
        return own
    if isinstance(given, str):
        if given not in built_in:
            raise ValueError(
                f"There is no outcome {given!r}; choose one of: {', '.join(built_in)}, or pass a function."
            )
        return built_in[given]
    if not callable(given):
        raise ValueError(
            f"{given!r} is no outcome; pass a name, a function from question and reply to a number, or"
            " kv.outcomes.Outcome(name, function)."
        )
    name = getattr(given, "__name__", type(given).__name__)
    if name == "<lambda>":
        raise ValueError("A lambda has no name for the table; pass kv.outcomes.Outcome('name', lambda ...).")
    _check_parameters(given, name)
    description = next(iter((given.__doc__ or "").strip().splitlines()), "")
    return Outcome(name, given, description=description)


def _check_parameters(measure: Callable[..., Any], name: str) -> None:
    """Refuse a function that can't be called with a question and a reply."""
    try:
        parameters = inspect.signature(measure)
    except (TypeError, ValueError):  # of a function that isn't written in Python nothing is known
        return
    try:
        parameters.bind(None, Reply(""))
    except TypeError as error:
        raise ValueError(
            f"The outcome {name!r} can't be called with a question and a reply ({error}); give it these two parameters."
        ) from error
