"""Statistics of every table and figure: intervals, exact paired tests and p-values of controls (scipy, statsmodels)."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
