"""Which heads read the steered slot, what follows from it, and for how long."""

from ..._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__, {"over_prompts": "stats.averaging"})
