"""Ways to make steering vectors from pairs and to edit caches with them, each with its source, formula and cost."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
