"""Everything that is compared in an experiment; one method a file."""

from .activation import ActivationSteering, random_activation_controls
from .base import Intervention, NoOffset, Nothing
from .cache import CacheSteering
from .controls import Control, label_shuffle_controls, layer_shuffle_controls, other_slot, other_vectors, random_controls, sign_flip
from .hiding import HideSlot
from .offset import OtherOffset
from .prompt import CoTPrefix, CoTPrompt, FewShot, ForcedPrefix
from .together import Together

__all__ = [
    "ActivationSteering",
    "CacheSteering",
    "CoTPrefix",
    "CoTPrompt",
    "Control",
    "FewShot",
    "ForcedPrefix",
    "HideSlot",
    "Intervention",
    "NoOffset",
    "Nothing",
    "OtherOffset",
    "Together",
    "label_shuffle_controls",
    "layer_shuffle_controls",
    "other_slot",
    "other_vectors",
    "random_activation_controls",
    "random_controls",
    "sign_flip",
]
