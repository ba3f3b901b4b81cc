"""Fields that a dataclass got after its first release. A run's identity leaves them out while they have their default,
so that runs which were stored before keep their identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field
from typing import Any

LATER: Mapping[str, bool] = {"later": True}
"""The metadata of such a field: `scope: str | None = field(default=None, metadata=LATER)`."""


def counts(field: Field, value: Any) -> bool:
    """Whether a field is part of a run's identity: always, unless it came later and still has its default.

    Example:
        >>> from dataclasses import dataclass, field, fields
        >>> @dataclass
        ... class Method:
        ...     text: str = ""
        ...     scope: str | None = field(default=None, metadata=LATER)
        >>> [f.name for f in fields(Method) if counts(f, getattr(Method(), f.name))]
        ['text']
    """
    return not (field.metadata.get("later") and value == field.default)
