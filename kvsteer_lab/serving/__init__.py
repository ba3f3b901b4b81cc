"""Cache steering behind an OpenAI-compatible server: each request names its vectors and coefficients."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
