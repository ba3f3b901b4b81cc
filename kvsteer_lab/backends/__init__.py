"""What may decode in place of transformers in this process; each is given to `kv.generate` and `kv.evaluate`."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
