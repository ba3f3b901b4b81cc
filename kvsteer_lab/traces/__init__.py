"""Replies in a style that were written elsewhere: read from a file, or written by a model behind an endpoint."""

from .reading import Trace, Traces
from .task import TracedTask, TracesTask, with_traces

__all__ = ["Trace", "TracedTask", "Traces", "TracesTask", "with_traces"]
