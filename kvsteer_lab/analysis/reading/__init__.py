"""Who reads the steered slot, what comes of it, and for how long."""

from .attention import attention_to_slot
from .attribution import attribute_heads
from .averaging import over_prompts
from .half_life import HalfLife, half_life
from .judging import judge_heads, judge_layers
from .knockout import knock_out_reading
from .nats import nats_of_reading
from .values import unembed_values

__all__ = [
    "HalfLife",
    "attention_to_slot",
    "attribute_heads",
    "half_life",
    "judge_heads",
    "judge_layers",
    "knock_out_reading",
    "nats_of_reading",
    "over_prompts",
    "unembed_values",
]
