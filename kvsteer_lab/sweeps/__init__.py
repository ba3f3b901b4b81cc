"""Many evaluations on many workers: models x tasks x sets of interventions, each run in shards."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
