"""Interventions on a task's questions: planned, asked in chunks, stored, compared; coefficients tuned."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
