"""Files that hold an explorer's state: JSON with a format, the fields, and where the state was set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from .._util.json import read_json

FORMAT = "kvsteer_lab.explorer.1"
"""Names the format and its version in every file."""


@dataclass(frozen=True)
class Origin:
    """Where a state was set.

    Attributes:
        model, fingerprint: the model's name and fingerprint.
        sources: for sets of vectors that were loaded by hand, the file or repository.
    """

    model: str
    fingerprint: str
    sources: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Origin | None:
        """Where the state in a file was set; `None` if the file doesn't tell.

        Raises:
            ValueError: no such file, no state, or an origin that can't be read.
        """
        found = read_file(path).get("origin")
        try:
            return None if found is None else cls(**found)
        except (TypeError, ValidationError) as error:
            raise ValueError(
                f"The state in {path} has an origin that can't be read; take the field out to restore the rest."
            ) from error


def read_file(path: str | Path) -> dict[str, Any]:
    """The fields in a file of `ExplorerState.save`, and its `origin` if it has one.

    Raises:
        ValueError: no such file, or what `read_state` refuses.
    """
    try:
        return read_state(Path(path), f"The state in {path}")
    except OSError as error:
        raise ValueError(f"There is no state at {path}: {error.strerror}.") from error


def read_state(source: str | Path, what: str) -> dict[str, Any]:
    """The fields in the JSON of a state; `what` it is, for messages.

    Raises:
        ValueError: no JSON object, or another format or version.
    """
    found = read_json(source, what=what)
    if not isinstance(found, dict) or "format" not in found:
        raise ValueError(
            f"{what} is not one of the explorer: it doesn't name its format; save one with the explorer's Export tab."
        )
    if (version := found.pop("format")) != FORMAT:
        raise ValueError(
            f"{what} has the format {version!r}, but this version of the package reads {FORMAT!r}; make the settings"
            " anew and save them."
        )
    return found


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raise a `ValueError` if there is something at `path` that may not be overwritten."""
    if not str(path).strip():
        raise ValueError("The name of the file is empty; give one.")
    if Path(path).exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another name, or allow overwriting.")
