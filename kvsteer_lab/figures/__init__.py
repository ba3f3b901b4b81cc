"""Figures: each a function from a table or vectors to a Matplotlib figure, in one style."""

from .comparison import plot_comparison
from .costs import plot_costs
from .divergence import plot_divergence
from .dose import plot_dose_response, plot_dose_responses
from .gains import plot_gains
from .layers import plot_layers
from .norms import plot_norms, plot_relative_norms
from .pairs import plot_convergence, plot_lengths
from .style import COLORS, save, styled
from .tuning import plot_tuning

__all__ = [
    "COLORS",
    "plot_comparison",
    "plot_convergence",
    "plot_costs",
    "plot_divergence",
    "plot_dose_response",
    "plot_dose_responses",
    "plot_gains",
    "plot_layers",
    "plot_lengths",
    "plot_norms",
    "plot_relative_norms",
    "plot_tuning",
    "save",
    "styled",
]
