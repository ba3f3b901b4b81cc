"""Figures: each a function from a table or vectors to a Matplotlib figure, in one style."""

from .comparison import plot_comparison
from .costs import plot_costs
from .divergence import plot_divergence
from .dose import plot_dose_response, plot_dose_responses
from .explorer import plot_components, plot_sweep, plot_tokens
from .forecast import plot_forecasts, plot_split_half
from .gains import plot_gains
from .geometry import plot_separability, plot_style_cosines, plot_style_pca
from .grid import plot_coefficient_grid
from .heads import plot_attribution, plot_judged
from .layers import plot_layers
from .lens import plot_lens, plot_lens_divergence
from .mixing import plot_style_mixing
from .norms import plot_norms, plot_relative_norms
from .pairs import plot_convergence, plot_lengths
from .patching import plot_patching
from .reading import plot_attention, plot_half_life, plot_knock_out
from .robustness import plot_matched, plot_robustness
from .saving import save_figure
from .stamp import Stamp, read_stamp
from .style import COLORS, attach, styled
from .tuning import plot_tuning
from .turns import plot_turns
from .varying import plot_extraction, plot_slots, plot_temperature

__all__ = [
    "COLORS",
    "Stamp",
    "attach",
    "plot_attention",
    "plot_attribution",
    "plot_coefficient_grid",
    "plot_comparison",
    "plot_components",
    "plot_convergence",
    "plot_costs",
    "plot_divergence",
    "plot_dose_response",
    "plot_dose_responses",
    "plot_extraction",
    "plot_forecasts",
    "plot_gains",
    "plot_half_life",
    "plot_judged",
    "plot_knock_out",
    "plot_layers",
    "plot_lengths",
    "plot_lens",
    "plot_lens_divergence",
    "plot_matched",
    "plot_norms",
    "plot_patching",
    "plot_relative_norms",
    "plot_robustness",
    "plot_separability",
    "plot_slots",
    "plot_split_half",
    "plot_style_cosines",
    "plot_style_mixing",
    "plot_style_pca",
    "plot_sweep",
    "plot_temperature",
    "plot_tokens",
    "plot_tuning",
    "plot_turns",
    "read_stamp",
    "save_figure",
    "styled",
]
