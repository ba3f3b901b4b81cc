"""What else can be steered than reasoning: languages, register, brevity, mood, form, personas; data, scores, and what
steering one of them does to the others.
"""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
