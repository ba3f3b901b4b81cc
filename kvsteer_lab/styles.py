"""The five reasoning styles of cache steering's style-transfer experiment, and detectors for them."""

from __future__ import annotations

STYLES = ("direct", "strategy_execution", "stepwise", "causal_chain", "annotated_deduction", "analogical")
"""Every style that a reply of the bundled tasks can have: answering directly, and five ways to reason."""

REASONING_STYLES = STYLES[1:]
