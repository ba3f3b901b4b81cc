"""Edits of a forward pass: additions to cached slots and to the residual stream, and slots hidden from attention."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
