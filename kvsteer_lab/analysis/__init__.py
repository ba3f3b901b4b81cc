"""Analyses: each a function from a model, vectors or results to a tidy table."""

from .controls import control_cosines
from .costs import decode_costs
from .forecast import forecast
from .foresight import forecast_correlations
from .geometry import style_cosines, style_pca
from .grid import coefficient_grid
from .lasting import summarise_turns
from .layers import ablate_heads, ablate_layers, confirm_best
from .lengths import prompt_lengths
from .lens import Lens, logit_lens
from .matching import match_divergence
from .mixing import style_mixes, style_mixing
from .nats import divergence_response
from .openings import forced_openings
from .patching import patch_residuals
from .reading import (
    attention_to_slot,
    attribute_heads,
    half_life,
    judge_heads,
    judge_layers,
    knock_out_reading,
    nats_of_reading,
    over_prompts,
    unembed_values,
)
from .realised import PairSet, Place, realised_effects
from .reliability import convergence, split_half
from .reseeding import vary_extraction
from .robustness import robustness, robustness_curve
from .separability import separability
from .slots import offset_response, slot_response
from .temperature import temperature_response
from .tuned import best_coefficient, robustness_outcomes
from .turns import follow_conversations

__all__ = [
    "Lens",
    "PairSet",
    "Place",
    "ablate_heads",
    "ablate_layers",
    "attention_to_slot",
    "attribute_heads",
    "best_coefficient",
    "coefficient_grid",
    "confirm_best",
    "control_cosines",
    "convergence",
    "decode_costs",
    "divergence_response",
    "follow_conversations",
    "forced_openings",
    "forecast",
    "forecast_correlations",
    "half_life",
    "judge_heads",
    "judge_layers",
    "knock_out_reading",
    "logit_lens",
    "match_divergence",
    "nats_of_reading",
    "offset_response",
    "over_prompts",
    "patch_residuals",
    "prompt_lengths",
    "realised_effects",
    "robustness",
    "robustness_curve",
    "robustness_outcomes",
    "separability",
    "slot_response",
    "split_half",
    "style_cosines",
    "style_mixes",
    "style_mixing",
    "style_pca",
    "summarise_turns",
    "temperature_response",
    "unembed_values",
    "vary_extraction",
]
