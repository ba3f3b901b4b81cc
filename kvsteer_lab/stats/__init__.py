"""The statistics that stand beside every figure: intervals, paired tests, controls. On scipy and statsmodels.

Outcomes are one number a question: 0 or 1 for a verdict, anything finite for a length or a log-probability.
"""

from .intervals import Estimate, clustered_mean, paired_bootstrap, paired_difference, vector_bootstrap, wilson
from .significance import control_p, holm, holm_family, mcnemar, mcnemar_power, minimum_detectable_effect
from .texts import repetition

__all__ = [
    "Estimate",
    "clustered_mean",
    "control_p",
    "holm",
    "holm_family",
    "mcnemar",
    "mcnemar_power",
    "minimum_detectable_effect",
    "paired_bootstrap",
    "paired_difference",
    "repetition",
    "vector_bootstrap",
    "wilson",
]
