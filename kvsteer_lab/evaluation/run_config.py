"""`config.json` of a run's folder: its fields, how they are checked, and a checksum over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .._util.json import first_fault, read_json
from .identity import RunIdentity, hash_of

CONFIG = "config.json"
FORMAT = "kvsteer_lab.run.2"
_OLD = "kvsteer_lab.run.1"

Chunk = Annotated[tuple[str, ...], Field(min_length=1)]


class RunConfig(BaseModel):
    """What a run's folder says about itself.

    Attributes:
        format: of the folder.
        identity: what texts and readings depend on.
        chunks, labels, samples, settings, provenance: as in `Run`.
        check: SHA-256 of all other fields, so that no changed byte goes unnoticed.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    OF_RUN: ClassVar = ("chunks", "labels", "samples", "settings", "provenance")

    format: Literal["kvsteer_lab.run.2"]
    identity: dict[Literal["texts", "readings"], dict[str, Any]]
    chunks: Annotated[tuple[Chunk, ...], Field(min_length=1)]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    samples: Annotated[int, Field(ge=1)]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    check: str

    @model_validator(mode="after")
    def _is_whole(self) -> RunConfig:
        if self.check != self._hash():
            raise ValueError("its checksum isn't that of its content")
        ids = [question for chunk in self.chunks for question in chunk]
        if len(set(ids)) < len(ids):
            raise ValueError("a question is in it twice")
        if len(self.identity) < 2:
            raise ValueError("the identity is incomplete")
        return self

    @classmethod
    def of(cls, identity: RunIdentity, fields: Mapping[str, Any]) -> RunConfig:
        """The config of a run."""
        parts = {"texts": dict(identity.texts), "readings": dict(identity.readings)}
        found = cls.model_construct(format=FORMAT, identity=parts, check="", **fields)
        return found.model_copy(update={"check": found._hash()})

    @classmethod
    def read(cls, folder: Path) -> RunConfig:
        """The config that lies in a folder.

        Raises:
            ValueError: there is none, it is damaged, or an older version wrote it.
        """
        path = folder / CONFIG
        try:
            text = path.read_bytes().decode("utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError) as error:
            remedy = "give the folder that --out named"
            raise ValueError(f"There is no run in {folder}: it has no {CONFIG}; {remedy}.") from error
        remedy = "choose another folder and run again"
        try:
            found = read_json(text, what=str(path))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); {remedy}.") from error
        if isinstance(found, dict) and found.get("format") == _OLD:
            raise ValueError(
                f"{folder} was written by an older version of kvsteer_lab, whose runs left out of their identity what"
                " can change a reply, so that it can't be continued; choose another folder"
                f" (pandas.read_parquet('{folder / 'rows'}') still reads its rows)."
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"{path} is damaged ({first_fault(error)}); {remedy}.") from error

    @property
    def run_identity(self) -> RunIdentity:
        """The identity as the rest of the package has it."""
        return RunIdentity(self.identity["texts"], self.identity["readings"])

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1), encoding="utf-8")

    def _hash(self) -> str:
        return hash_of(json.loads(json.dumps(self.model_dump(exclude={"check"}), default=str)))
