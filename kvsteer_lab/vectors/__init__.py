"""Steering vectors, their cards and files, and the contrastive pairs that they are extracted from."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
