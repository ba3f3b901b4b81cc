"""The command line `kvsteer`, made of the functions in `commands/`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from .._util.text import visible
from .commands import COMMANDS
from .printing import visible_warnings


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `kvsteer`. Bad input ends with one line and exit code 1, Ctrl-C with 130."""
    try:
        with visible_warnings():
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="kvsteer",
                args=arguments,
                description="KV cache steering: extract, inject, evaluate.",
            )
    except (ValueError, OSError) as error:
        sys.exit(f"kvsteer: {visible(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
