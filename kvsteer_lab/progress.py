"""Progress bars for long work."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def bar(total: int, what: str, unit: str, show: bool) -> Any:
    """A progress bar, or none. The environment's `TQDM_DISABLE` is honoured, which tqdm does only if `disable` is not passed."""
    return tqdm(total=total, desc=what, unit=unit) if show else tqdm(total=total, disable=True)
