"""Progress bars for long work, and one sentence where it is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


def bar(total: int | None, what: str, unit: str, show: bool) -> Any:
    """A progress bar, or none; `total` is `None` where it is not known. `TQDM_DISABLE` is honoured here, for tqdm's
    notebook bars don't.
    """
    silenced = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(total=total, desc=what, unit=unit, disable=silenced or not show)


@contextmanager
def counted(total: int, what: str, unit: str, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar around work that gives nothing before it is finished: the function that it yields takes how much was done.

    Args:
        total: how much there is to do.
        what: the name of the work.
        unit: what is counted, in the singular.
        show: whether there is a bar.

    Raises:
        KeyboardInterrupt: the work was interrupted; it says how far it had come.

    >>> with counted(2, "count", "sheep", show=False) as done:
    ...     done(2)
    """
    count = 0
    with bar(total, what, unit, show) as shown:

        def done(n: int) -> None:
            nonlocal count
            count += n
            shown.update(n)

        try:
            yield done
        except KeyboardInterrupt as error:
            if error.args:  # a sentence of its own
                raise
            raise KeyboardInterrupt(
                f"Interrupted: {what} had done {count} of {total} {unit}s, and gives no table of a part; call it again,"
                " with fewer prompts, layers or controls if it takes too long."
            ) from None
