"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .controls import control_cosines
from .costs import decode_costs
from .layers import ablate_heads, ablate_layers, confirm_best
from .lengths import prompt_lengths
from .openings import forced_openings
from .reliability import convergence

__all__ = [
    "ablate_heads",
    "ablate_layers",
    "confirm_best",
    "control_cosines",
    "convergence",
    "decode_costs",
    "forced_openings",
    "prompt_lengths",
]
