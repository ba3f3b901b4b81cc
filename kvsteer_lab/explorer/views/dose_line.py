"""The line below the coefficients that shows their relative strength."""

from __future__ import annotations

import ipywidgets as w

from ..results.dose import Dose
from .markup import dose_html, note


class DoseLine:
    """The relative strength of the present setting, or that it isn't known.

    Attributes:
        html: what is displayed.
    """

    def __init__(self) -> None:
        self.html = w.HTML()

    def show(self, dose: Dose | None, slot: int) -> None:
        """Show a relative strength at a slot; `None`: the slot hasn't been measured."""
        self.html.value = note("Relative strength: not measured yet.") if dose is None else dose_html(dose, slot)

    def fail(self, message: str) -> None:
        """Say why there is no relative strength."""
        self.html.value = note(f"Relative strength: unknown. {message}")
