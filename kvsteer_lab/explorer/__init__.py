"""The explorer: steer a model by hand in JupyterLab."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
