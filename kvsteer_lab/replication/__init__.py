"""The paper's experiment on a model of one's own: tuned on development questions, tested once, controls beside it."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
