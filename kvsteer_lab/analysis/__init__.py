"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .lengths import prompt_lengths
from .openings import forced_openings
from .reliability import convergence

__all__ = ["convergence", "forced_openings", "prompt_lengths"]
