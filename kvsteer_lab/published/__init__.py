"""The generations that the paper's authors released: read, scored again, audited."""

from .auditing import Audit, audit
from .release import Release, Timing, iterate_release, read_release
from .reporting import report
from .rescoring import Check, check_metrics
from .runs import Answer, Run
from .scored import Scored, score
from .sources import Problem

__all__ = [
    "Answer",
    "Audit",
    "Check",
    "Problem",
    "Release",
    "Run",
    "Scored",
    "Timing",
    "audit",
    "check_metrics",
    "iterate_release",
    "read_release",
    "report",
    "score",
]
