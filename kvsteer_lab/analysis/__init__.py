"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .controls import control_cosines
from .costs import decode_costs
from .forecast import forecast
from .foresight import forecast_correlations
from .geometry import style_cosines, style_pca
from .layers import ablate_heads, ablate_layers, confirm_best
from .lengths import prompt_lengths
from .lens import Lens, logit_lens
from .mixing import style_mixes, style_mixing
from .openings import forced_openings
from .patching import patch_residuals
from .realised import PairSet, Place, realised_effects
from .reliability import convergence, split_half
from .separability import separability

__all__ = [
    "Lens",
    "PairSet",
    "Place",
    "ablate_heads",
    "ablate_layers",
    "confirm_best",
    "control_cosines",
    "convergence",
    "decode_costs",
    "forced_openings",
    "forecast",
    "forecast_correlations",
    "logit_lens",
    "patch_residuals",
    "prompt_lengths",
    "realised_effects",
    "separability",
    "split_half",
    "style_cosines",
    "style_mixes",
    "style_mixing",
    "style_pca",
]
