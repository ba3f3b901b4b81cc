"""The commands of `kvsteer`, one a file; each is a thin call of the library."""

from collections.abc import Callable
from typing import Any

from .audit import audit
from .demo import demo
from .evaluate import evaluate
from .explore import explore
from .extract import extract
from .fetch import fetch
from .figure_info import figure_info
from .generate import generate
from .info import info
from .merge import merge
from .replicate import replicate
from .reproduce import reproduce
from .serve import serve
from .sweep import sweep
from .traces import traces
from .tune import tune

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "fetch": fetch,
    "traces": traces,
    "extract": extract,
    "generate": generate,
    "tune": tune,
    "evaluate": evaluate,
    "merge": merge,
    "sweep": sweep,
    "explore": explore,
    "serve": serve,
    "audit": audit,
    "replicate": replicate,
    "reproduce": reproduce,
    "info": info,
    "figure-info": figure_info,
}
"""By the name that is typed, in the order of `kvsteer --help`."""
