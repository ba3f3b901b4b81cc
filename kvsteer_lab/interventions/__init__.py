"""Everything that is compared in an experiment; one method a file."""

from .base import Intervention, NoOffset, Nothing
from .cache import CacheSteering
from .controls import random_controls
from .prompt import CoTPrompt, ForcedPrefix

__all__ = ["CacheSteering", "CoTPrompt", "ForcedPrefix", "Intervention", "NoOffset", "Nothing", "random_controls"]
