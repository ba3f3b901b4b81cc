"""KV cache steering for interpretability researchers: extract, inject, evaluate, look.

Names are loaded on first use (see `__init__.pyi`), so that `import kvsteer_lab` does not import torch.
"""

from ._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
