"""Progress bars for long work."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def bar(total: int | None, what: str, unit: str, show: bool) -> Any:
    """A progress bar, or none; `total` is `None` where it is not known. `TQDM_DISABLE` is honoured here, for tqdm's
    notebook bars don't.
    """
    silenced = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(total=total, desc=what, unit=unit, disable=silenced or not show)
