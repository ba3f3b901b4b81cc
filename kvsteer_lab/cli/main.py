"""The command line `kvsteer`, made of the functions in `commands/`."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tyro

from .._util.text import visible
from .commands import COMMANDS
from .printing import say_error, visible_warnings


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Press Ctrl-C again where Python dropped it, with a traceback on the screen: within a finaliser or the callback of
    a weak reference, as garbage is collected.
    """
    before = sys.unraisablehook

    def press_again(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            again = threading.Timer(0.02, _thread.interrupt_main)  # from here it would be dropped, too
            again.daemon = True
            again.start()
        else:
            before(dropped)

    sys.unraisablehook = press_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `kvsteer`. Bad input ends with one line and exit code 1, Ctrl-C with one line and 130."""
    try:
        with visible_warnings(), no_interrupt_lost():
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="kvsteer",
                args=arguments,
                description="KV cache steering: extract, inject, evaluate.",
            )
    except (ValueError, OSError) as error:
        sys.exit(f"kvsteer: {visible(error)}")
    except KeyboardInterrupt as stopped:
        say_error(f"kvsteer: {stopped}" if str(stopped) else "kvsteer: Interrupted.")
        sys.exit(130)


if __name__ == "__main__":
    main()
