"""What the command line prints: texts and names from files, models and servers, as they are written.

A name or a reply may hold escape sequences that recolour a terminal, move its cursor or retitle its window. Commands
print through these functions alone, which write such characters out.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .._util.text import visible


def say_line(*lines: object) -> None:
    r"""Print lines. A line break within one is written out, so that no name begins a line of its own.

    >>> say_line("model: tiny\x1b[31m\nseed: 0")
    model: tiny\x1b[31m\nseed: 0
    """
    for line in lines:
        print(visible(line, one_line=True), flush=True)


def say_text(text: object, *, end: str = "\n") -> None:
    """Print a text or a table of several lines, or with `end=""` a piece of a text.

    >>> say_text("two\\nlines")
    two
    lines
    """
    print(visible(text), end=end, flush=True)


def say_error(*lines: object) -> None:
    """Print lines as `say_line` does, to the standard error."""
    for line in lines:
        print(visible(line, one_line=True), file=sys.stderr, flush=True)


@contextmanager
def visible_warnings() -> Iterator[None]:
    """Print warnings, which may name files and models, as texts are printed."""
    plain = warnings.formatwarning

    def format_visibly(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return visible(plain(message, category, filename, lineno, line))

    warnings.formatwarning = format_visibly
    try:
        yield
    finally:
        warnings.formatwarning = plain
