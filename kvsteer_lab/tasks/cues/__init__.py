"""What in a reply's form speaks for a style, style by style; `tasks/styles.py` decides by it."""

from .causes import cause_cues
from .labels import analogy_cues, role_cues, strategy_cues
from .layout import Layout, after_choices, in_words
from .steps import step_cues

__all__ = [
    "Layout",
    "after_choices",
    "analogy_cues",
    "cause_cues",
    "in_words",
    "role_cues",
    "step_cues",
    "strategy_cues",
]
