"""The notebooks on another model: run, kept and shown on a page."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
