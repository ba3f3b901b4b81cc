"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__, {"over_prompts": "stats.averaging"})
