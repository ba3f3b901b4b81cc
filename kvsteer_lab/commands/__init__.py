"""The commands of `kvsteer`, one a file; each is a thin call of the library."""

from collections.abc import Callable
from typing import Any

from .demo import demo
from .extract import extract
from .generate import generate
from .info import info

COMMANDS: dict[str, Callable[..., Any]] = {"demo": demo, "extract": extract, "generate": generate, "info": info}
"""By the name that is typed, in the order of `kvsteer --help`."""
