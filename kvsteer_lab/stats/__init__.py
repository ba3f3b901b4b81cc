"""Statistics shown beside every figure: intervals, paired tests and control p-values, on scipy and statsmodels."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
