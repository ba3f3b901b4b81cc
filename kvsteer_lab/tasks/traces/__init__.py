"""Replies in a style that were written elsewhere: read from a file, or written by a model that is asked over HTTP."""

from ..._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
