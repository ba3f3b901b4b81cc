"""Ctrl-C in an evaluation: one sentence, and what was finished by then."""

from __future__ import annotations

from .results import Results


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C, raised by `evaluate_all` for whatever goes on to compute with the rows.

    Attributes:
        kept: what is finished, as the end of a sentence.
        results: the rows of it.

    Example:
        >>> import pandas as pd
        >>> error = EvaluationInterrupted("2 of 8 questions are finished", Results(pd.DataFrame(), {}, complete=False))
        >>> str(error)
        'Interrupted: 2 of 8 questions are finished.'
    """

    def __init__(self, kept: str, results: Results) -> None:
        super().__init__(f"Interrupted: {kept}.")
        self.kept = kept
        self.results = results
