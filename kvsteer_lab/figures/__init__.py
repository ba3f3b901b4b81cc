"""Figures: each a function from a table or vectors to a Matplotlib figure, in one style."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
