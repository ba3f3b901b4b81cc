"""The generations that the paper's authors released: reading, scoring again, and an audit with tests and figures."""

from .._util.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__, __file__, old={"Run": "published.runs:ReleasedRun", "score": "published.scored:score_run"}
)
