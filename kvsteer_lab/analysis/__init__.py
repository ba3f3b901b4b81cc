"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .costs import decode_costs
from .lengths import prompt_lengths
from .openings import forced_openings
from .reliability import convergence

__all__ = ["convergence", "decode_costs", "forced_openings", "prompt_lengths"]
