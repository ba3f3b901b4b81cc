from .built_in import BUILT_IN as BUILT_IN
from .divergence import measure_divergence as measure_divergence
from .outcome import Outcome as Outcome
from .outcome import Reply as Reply
from .outcome import as_outcomes as as_outcomes
