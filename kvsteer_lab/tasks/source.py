"""Where a benchmark's rows come from: local files in the dataset's own schema, or the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from .._util.json import read_json

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""A string that says something."""

_ENDINGS = (".jsonl", ".json", ".parquet")


class Row(BaseModel):
    """One row in a dataset's own columns, of their own types; other columns are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True)
class Source:
    """A dataset, by its names in a folder and on the hub.

    Attributes:
        names: what its files are called: `NAME_PART.jsonl` (or `.json`, `.parquet`).
        parts: those of train, validation and test whose answers are public, in this order.
        hub: the repository on the hub.
        config: its configuration there.
        revision: its branch there.
    """

    names: tuple[str, ...]
    parts: tuple[str, ...]
    hub: str
    config: str | None = None
    revision: str | None = None

    def files(self, data_dir: str | Path | None) -> dict[str, Path]:
        """Part -> file, in `data_dir` (`None`: in `KVSTEER_DATA_DIR`) or its `benchmarks/`; nothing if neither is set:
        then it is the hub.

        Raises:
            ValueError: a folder is set that has none of the files, or two for one part.
        """
        folder = data_dir or os.environ.get("KVSTEER_DATA_DIR")
        if not folder:
            return {}
        for place in (Path(folder).expanduser(), Path(folder).expanduser() / "benchmarks"):
            found: dict[str, Path] = {}
            for part in self.parts:
                paths = [
                    p for name in self.names for ending in _ENDINGS if (p := place / f"{name}_{part}{ending}").is_file()
                ]
                if len(paths) > 1:
                    raise ValueError(f"{paths[0]} and {paths[1].name} both hold the part {part!r}; keep one of them.")
                if paths:
                    found[part] = paths[0]
            if found:
                return found
        wanted = " or ".join(f"{self.names[0]}_{part}.jsonl" for part in self.parts)
        raise ValueError(
            f"There is no {wanted} (or .json, .parquet) in {folder}; put the dataset's files there, or name another"
            " folder with data_dir=."
        )

    def read(self, row: type[RowT], files: Mapping[str, Path]) -> dict[str, list[RowT]]:
        """Part -> rows, all of them, checked.

        Args:
            row: the schema.
            files: from `files`; none: the hub.

        Raises:
            ValueError: a file that can't be read, an empty one, a row that isn't in the schema, an id twice, no way to
                the hub.
        """
        raw = {part: (str(path), list(_lines(path))) for part, path in files.items()} or {
            part: self._download(part) for part in self.parts
        }
        for where, rows in raw.values():
            if not rows:
                raise ValueError(f"{where} is empty; put the dataset's rows there, or take the file away.")
        checked = {
            part: [_check(row, value, f"Row {i} of {where}") for i, value in enumerate(rows, 1)]
            for part, (where, rows) in raw.items()
        }
        _check_ids(
            [
                (getattr(r, "id", None), f"row {i} of {raw[part][0]}")
                for part, rows in checked.items()
                for i, r in enumerate(rows, 1)
            ]
        )
        return checked

    def _download(self, part: str) -> tuple[str, list[Any]]:
        import datasets

        where = f"{part} of {self.hub} on the hub"
        try:
            return where, datasets.load_dataset(self.hub, self.config, split=part, revision=self.revision).to_list()
        except Exception as error:  # of the network, the hub, the cache; its kinds change from version to version
            reason = str(error).strip().split("\n")[0].rstrip(".")
            names = " and ".join(f"{self.names[0]}_{p}.jsonl" for p in self.parts)
            raise ValueError(
                f"Could not load {where} ({reason}); put {names} in a folder, and name it with data_dir= or"
                " KVSTEER_DATA_DIR."
            ) from error


def _lines(path: Path) -> Iterator[Any]:
    """The rows of a file as plain Python values: JSON lines (a byte-order mark and empty lines are passed over), one
    JSON array, or parquet.
    """
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield from pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{path} can't be read as a parquet file ({str(error).strip().splitlines()[0]}); copy it again."
            ) from error
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as text in UTF-8 ({error}); copy it again.") from error
    if text.startswith("version https://git-lfs.github.com/"):
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; fetch that with git lfs pull.")
    if text.lstrip().startswith("["):
        rows = read_json(text, what=str(path))
        if all(isinstance(row, dict) for row in rows):
            yield from rows
            return
    # Not splitlines: questions may hold characters that it takes for the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield read_json(line, what=f"Line {number} of {path}")
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; the file may be cut off, copy it again.") from error


def _check(row: type[RowT], value: Any, where: str) -> RowT:
    try:
        return row.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        problem = {"missing": "is missing", "string_pattern_mismatch": "is blank"}.get(
            first["type"], f"is wrong: {first['msg'].removeprefix('Value error, ')}"
        )
        raise ValueError(
            f"{where}: {f'column {at!r}' if at else 'it'} {problem}; the dataset's columns are"
            f" {', '.join(row.model_fields)}."
        ) from error


def _check_ids(ids: Sequence[tuple[str | None, str]]) -> None:
    seen: dict[str, str] = {}
    for found, where in ids:
        if found is None:
            continue
        if found in seen:
            raise ValueError(
                f"The id {found!r} is in {seen[found]} and again in {where}; ids must be distinct: take one of the rows"
                " out, or rename it."
            )
        seen[found] = where
