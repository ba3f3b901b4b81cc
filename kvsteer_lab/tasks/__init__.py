"""Tasks: questions in fixed splits, rules that read answers, and replies in several styles."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
