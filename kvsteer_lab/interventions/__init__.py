"""Everything that can be compared in an experiment, one method a file."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
