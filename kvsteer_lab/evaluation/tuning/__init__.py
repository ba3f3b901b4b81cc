"""Choosing coefficients on development questions with one budget for every method, then confirming them once on test
questions.
"""

from ..._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
