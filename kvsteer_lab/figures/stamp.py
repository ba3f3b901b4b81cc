"""The stamp inside a saved figure: what it shows, of which model, with which seed, by which version of the package."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

from pydantic import Field, TypeAdapter

from .._util.json import read_json
from .._util.text import visible
from .._version import __version__
from ..models.model import Model

SUFFIXES = (".pdf", ".svg", ".png")
_LARGEST = 256 << 20  # bytes


@dataclass(frozen=True)
class Stamp:
    """What a saved figure says about itself. It names no date, commit, machine or path, so that the same figure gives
    the same bytes.

    Attributes:
        figure: its name.
        models: name and fingerprint of each model that is shown.
        seed: the seed of what is shown.
        version: of kvsteer_lab.
        csv_sha256, csv_rows: the plotted data, as they lie beside the figure.

    >>> stamp = Stamp("norms", (("tiny", "2-0123456789abcdef-01234567"),), 0, "0.1.0", "0" * 64, 3)
    >>> Stamp.read(stamp.metadata(".png")["Description"]) == stamp
    True
    """

    figure: str
    models: tuple[tuple[str, str], ...]
    seed: int | None
    version: str
    csv_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    csv_rows: Annotated[int, Field(ge=0)]

    def metadata(self, suffix: str) -> dict[str, str | None]:
        """The stamp as Matplotlib's `savefig(metadata=...)` takes it, with the dates that it would write left out."""
        text, made_by = json.dumps(asdict(self), sort_keys=True), f"kvsteer_lab {self.version}"
        if suffix == ".pdf":
            return {"Title": self.figure, "Subject": text, "Creator": made_by, "CreationDate": None, "ModDate": None}
        if suffix == ".svg":
            return {"Title": self.figure, "Description": text, "Creator": made_by, "Date": None}
        return {"Title": self.figure, "Description": text, "Software": made_by}

    @classmethod
    def read(cls, text: str) -> Stamp:
        """The stamp from its text.

        Raises:
            ValueError: the text is not a stamp.
        """
        try:
            read_json(text, what="The stamp")
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValueError as error:  # a pydantic error is one, too
            raise ValueError("That is not a stamp of kvsteer_lab.") from error


def read_stamp(path: str | Path) -> Stamp:
    """The stamp inside a PDF, SVG or PNG that `kv.save_figure` wrote.

    Raises:
        ValueError: no file, another kind of file, an incomplete one, or one without a stamp.

    >>> read_stamp("figures/norms.csv")
    Traceback (most recent call last):
    ValueError: figures/norms.csv is not a picture with a stamp; give a .pdf, .svg or .png that kv.save_figure wrote.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} is not a picture with a stamp; give a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} that"
            " kv.save_figure wrote."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}; give a picture that kv.save_figure wrote.")
    if path.stat().st_size > _LARGEST:
        raise ValueError(
            f"{path} is larger than any figure of kv.save_figure ({_LARGEST >> 20} MB); give one of these."
        )
    text = {".pdf": _in_pdf, ".svg": _in_svg, ".png": _in_png}[path.suffix.lower()](path)
    try:
        return Stamp.read(text)
    except ValueError as error:
        raise ValueError(
            f"{path} carries no stamp of kvsteer_lab: kv.save_figure didn't write it, or another program saved it"
            " again."
        ) from error


def _in_pdf(path: Path) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        found = PdfReader(path, strict=True).metadata
        return str(found.subject or "") if found is not None else ""
    # pypdf raises all of these on broken files
    except (PyPdfError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(path, "PDF", error) from error


def _in_svg(path: Path) -> str:
    try:
        found = ElementTree.parse(path).getroot().findtext(".//{http://purl.org/dc/elements/1.1/}description")
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise _broken(path, "SVG", error) from error
    return found or ""


def _in_png(path: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as picture:
                text = str(picture.info.get("Description", ""))
                picture.verify()  # to the end, checksums included; no pixel is unpacked
                return text
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise _broken(path, "PNG", error) from error


def _broken(path: Path, kind: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).replace(str(path), "the file").rstrip(".") or type(error).__name__
    return ValueError(f"{path} is not a complete {kind} file ({reason}); save or copy it again.")


def stamp(
    figure: str, models: Model | Sequence[Model] | None, seed: int | None, csv_sha256: str, csv_rows: int
) -> Stamp:
    """The stamp of a figure that is saved now; of a model from a folder, only the folder's own name is kept.

    Raises:
        ValueError: something that is not a model.
    """
    shown = (
        []
        if models is None
        else list(models)
        if isinstance(models, Sequence) and not isinstance(models, str)
        else [models]
    )
    wrong = [each for each in shown if not hasattr(each, "fingerprint")]
    if wrong:
        raise ValueError(
            f"A figure's stamp names loaded models, and {wrong[0]!r} is not one; pass what kv.load returned, or several"
            " of these."
        )
    named = tuple((visible(_public(m.name), one_line=True), _fingerprint(m)) for m in shown)
    return Stamp(visible(figure, one_line=True), named, seed, __version__, csv_sha256, csv_rows)


def _fingerprint(model: Model) -> str:
    return model.read_fingerprint() if isinstance(model, Model) else model.fingerprint


def _public(name: str) -> str:
    """A hub id or a bundled model's name as it is; of a path, the last part."""
    path = Path(name)
    is_path = path.is_absolute() or len(path.parts) > 2 or name.startswith((".", "~")) or path.is_dir()
    return path.resolve().name if is_path else name
