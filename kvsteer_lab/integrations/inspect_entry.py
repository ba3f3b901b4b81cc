"""What Inspect imports by the entry point `inspect_ai`, to know its models."""

from importlib.util import find_spec

from .inspect import register_inspect

if find_spec("inspect_ai") is not None:
    register_inspect()
