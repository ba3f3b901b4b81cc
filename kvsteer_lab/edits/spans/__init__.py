"""Spans: which slots of a prompt an edit acts on, and the chunks that a prompt is made of."""

from ..._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
