"""KV cache steering for interpretability researchers: extract, inject, evaluate, look.

The public names below are loaded on first use, so that `import kvsteer_lab` costs no torch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Model": "models",
    "load": "models",
    "UnsteerableModelError": "architectures",
    "CacheDelta": "cache",
    "apply": "cache",
    "ContrastiveSet": "contrast",
    "Traces": "traces",
    "with_traces": "traces",
    "write_traces": "traces.writing",
    "KVVectors": "vectors",
    "PairDifferences": "extraction",
    "extract": "extraction",
    "extract_pairs": "extraction",
    "ActivationVectors": "activations",
    "extract_activations": "activations",
    "Intervention": "interventions",
    "Nothing": "interventions",
    "NoOffset": "interventions",
    "CacheSteering": "interventions",
    "ActivationSteering": "interventions",
    "random_activation_controls": "interventions",
    "ResidualDelta": "residual",
    "CoTPrompt": "interventions",
    "CoTPrefix": "interventions",
    "FewShot": "interventions",
    "ForcedPrefix": "interventions",
    "HideSlot": "interventions",
    "Together": "interventions",
    "Control": "interventions",
    "random_controls": "interventions",
    "label_shuffle_controls": "interventions",
    "layer_shuffle_controls": "interventions",
    "sign_flip": "interventions",
    "other_slot": "interventions",
    "other_vectors": "interventions",
    "Generations": "outputs",
    "generate": "generation",
    "stream": "streaming",
    "score": "scoring",
    "divergence": "kl",
    "elicit": "elicitation",
    "KVSteerer": "steerer",
    "explore": "widgets.opening",
    "ExplorerState": "widgets.state",
    "Results": "results",
    "evaluate": "evaluation",
    "Run": "store",
    "merge": "merging",
    "compare": "comparison",
    "side_effects": "effects",
    "readable": "tables",
    "dose_response": "sweep",
    "unit_dose": "sweep",
    "tune": "tuning",
    "Tuning": "tuning",
    "Search": "tuning",
    "CacheSearch": "tuning",
    "ActivationSearch": "tuning",
    "save_figure": "figures",
    "analysis": "",
    "figures": "",
    "published": "",
    "stats": "",
    "tasks": "",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from . import analysis, figures, published, stats, tasks
    from .activations import ActivationVectors, extract_activations
    from .architectures import UnsteerableModelError
    from .cache import CacheDelta, apply
    from .comparison import compare
    from .contrast import ContrastiveSet
    from .effects import side_effects
    from .elicitation import elicit
    from .evaluation import evaluate
    from .extraction import PairDifferences, extract, extract_pairs
    from .figures import save_figure
    from .generation import generate
    from .interventions import (
        ActivationSteering,
        CacheSteering,
        Control,
        CoTPrefix,
        CoTPrompt,
        FewShot,
        ForcedPrefix,
        HideSlot,
        Intervention,
        NoOffset,
        Nothing,
        Together,
        label_shuffle_controls,
        layer_shuffle_controls,
        other_slot,
        other_vectors,
        random_activation_controls,
        random_controls,
        sign_flip,
    )
    from .kl import divergence
    from .merging import merge
    from .models import Model, load
    from .outputs import Generations
    from .residual import ResidualDelta
    from .results import Results
    from .scoring import score
    from .steerer import KVSteerer
    from .store import Run
    from .streaming import stream
    from .sweep import dose_response, unit_dose
    from .tables import readable
    from .tuning import ActivationSearch, CacheSearch, Search, Tuning, tune
    from .vectors import KVVectors
    from .widgets.opening import explore
    from .widgets.state import ExplorerState


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    if not home:
        return importlib.import_module(f".{name}", __name__)
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
