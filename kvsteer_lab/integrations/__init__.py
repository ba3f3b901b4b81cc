"""Benchmarks of other frameworks under steering: lm-evaluation-harness and Inspect, and their logs as `kv.Results`."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
