"""How far a slow decode is, for the line that says what goes on."""

from __future__ import annotations

import time

PATIENCE = 0.6
"""Seconds after which progress is told, and between two times that it is: a fast model needs none."""


class Pace:
    """Counts the tokens of a decode.

    Args:
        most: how many tokens a text may have.

    >>> pace = Pace(64)
    >>> pace.tell(1), pace.tell(2)  # too early to say anything
    ('', '')
    """

    def __init__(self, most: int) -> None:
        self.most, self.longest = most, 0
        self._start = self._said = time.perf_counter()
        self._first: float | None = None

    @property
    def slow(self) -> bool:
        """Whether anything was worth telling."""
        return self._said > self._start

    def tell(self, tokens: int) -> str:
        """What to say now, given the number of tokens of one of the texts; empty where nothing new is to be said."""
        now = time.perf_counter()
        self.longest = max(self.longest, tokens)
        self._first = now if self._first is None else self._first
        if now - self._said < PATIENCE:
            return ""
        self._said = now
        pace = (self.longest - 1) / (now - self._first) if now > self._first else 0.0
        speed = f", {pace:.1f} tokens a second and text" if pace else ""
        return f"Token {self.longest} of at most {self.most}{speed}."
