"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .lengths import prompt_lengths
from .reliability import convergence

__all__ = ["convergence", "prompt_lengths"]
