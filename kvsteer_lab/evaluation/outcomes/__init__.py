"""What is measured of replies: built-in outcomes by name, functions of one's own, a fitted probe, a judge."""

from ..._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
