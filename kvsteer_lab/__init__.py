"""KV cache steering for interpretability researchers: extract, inject, evaluate, look.

Names are loaded on first use (`__init__.pyi` lists them), so that `import kvsteer_lab` does not import torch.
"""

from ._util.lazy import attach as _attach
from ._util.threads import let_threads_sleep as _let_threads_sleep

_let_threads_sleep()  # before anything imports torch

_OLD = {
    "CacheDelta": "edits.addition",
    "Control": "interventions.controls",
    "ExplorerState": "explorer.state",
    "PairDifferences": "vectors.extraction",
    "ResidualDelta": "edits.residual",
    "Search": "evaluation.tuning.methods",
    "Traces": "tasks.traces.reading",
    "Tuning": "evaluation.tuning.tuning",
    "apply": "edits.cache",
    "label_shuffle_controls": "interventions.controls",
    "layer_shuffle_controls": "interventions.controls",
    "other_slot": "interventions.controls",
    "other_vectors": "interventions.controls",
    "random_activation_controls": "interventions.activation",
    "sign_flip": "interventions.controls",
    "unit_dose": "evaluation.doses",
    "with_traces": "tasks.traces.task",
    "write_traces": "tasks.traces.writing",
}
"""Names of release 0.1, kept for one more release; they moved to `kv.controls`, `kv.traces`, `kv.edits` and so on."""

__getattr__, __dir__, __all__ = _attach(__name__, __file__, _OLD)
