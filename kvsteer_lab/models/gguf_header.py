"""The header of a GGUF file: what it says about the model, and which tensors it holds.

GGUF is the format of llama.cpp: metadata, a table of tensors, and the tensors, often quantised, in one file. Only the
metadata and the table are read here, with every length checked against the file's size.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_FLOATS = {0: "F32", 1: "F16", 28: "F64", 30: "BF16"}
_KEPT = 1 << 12
"""Longer arrays (vocabularies, merges) are skipped: their length stands for them."""


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says before its weights.

    Attributes:
        path: the file.
        fields: the metadata; of arrays of texts, and of long ones, only the length.
        tensors: by name, the shape and the number of the tensor's type.
        data: where the tensors begin, in bytes.
        offsets: by name, where a tensor begins after `data`.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int]]
    data: int
    offsets: dict[str, int]

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    @property
    def n_values(self) -> int:
        """Weights in all tensors together."""
        return sum(math.prod(shape) for shape, _ in self.tensors.values())

    @property
    def quantisation(self) -> str | None:
        """The kind of most of the quantised weights, such as `"Q4_1"`; `None` where all are floats."""
        from gguf import GGMLQuantizationType

        sizes: Counter[int] = Counter()
        for shape, kind in self.tensors.values():
            sizes[kind] += math.prod(shape) if kind not in _FLOATS else 0
        kind, size = max(sizes.items(), key=lambda one: one[1], default=(0, 0))
        if not size:
            return None
        return _file_type(self.fields.get("general.file_type")) or GGMLQuantizationType(kind).name

    def own(self, name: str) -> Any:
        """A field of the architecture: `own("context_length")` is `llama.context_length` in a Llama's file."""
        return self.fields.get(f"{self.architecture}.{name}")


def read_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file.

    Args:
        path: the file.

    Raises:
        ValueError: it isn't a GGUF file, one of another version, damaged, or cut short.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
    ...     read_header(Path(file.name))
    Traceback (most recent call last):
    ValueError: ... is not a GGUF file: it doesn't begin with 'GGUF'; download it again.
    """
    with path.open("rb") as file:
        if (magic := file.read(4)) == b"vers" and file.readline().startswith(b"ion https://git-lfs."):
            raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; fetch that with git lfs pull.")
        if magic != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file: it doesn't begin with 'GGUF'; download it again.")
        try:
            header = _read(file, path)
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError, _DamagedError) as error:
            reason = str(error) if isinstance(error, _DamagedError) else "its header is cut short or damaged"
            raise ValueError(f"{path} can't be read: {reason}; download it again.") from error
    _check_length(header)
    return header


class _DamagedError(Exception):
    """What is wrong with the header."""


def _read(file: BinaryIO, path: Path) -> GGUFHeader:
    (version,) = struct.unpack("<I", file.read(4))
    if version not in (2, 3):
        order = ", in the byte order of other machines" if version > 1 << 16 else ""
        raise _DamagedError(f"it is of a version of GGUF other than 2 and 3 ({version}{order})")
    n_tensors, n_fields = struct.unpack("<QQ", file.read(16))
    size = path.stat().st_size
    if max(n_tensors, n_fields) > size // 8:
        raise _DamagedError("its header counts more entries than the file has room for")
    fields = {}
    for _ in range(n_fields):
        name = _text(file, size)
        (kind,) = struct.unpack("<I", file.read(4))
        fields[name] = _value(file, kind, size)
    tensors, offsets = {}, {}
    for _ in range(n_tensors):
        name = _text(file, size)
        (n_dimensions,) = struct.unpack("<I", file.read(4))
        if n_dimensions > 8:
            raise _DamagedError(f"its tensor {name!r} has {n_dimensions} dimensions")
        shape = struct.unpack(f"<{n_dimensions}Q", file.read(8 * n_dimensions))
        kind, offsets[name] = struct.unpack("<IQ", file.read(12))
        tensors[name] = (tuple(reversed(shape)), kind)
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= size:
        raise _DamagedError(f"its tensors are aligned to {alignment!r}")
    data = -(-file.tell() // alignment) * alignment
    return GGUFHeader(path, fields, tensors, data, offsets)


def _text(file: BinaryIO, size: int) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size:
        raise _DamagedError("a text in its header is longer than the file")
    return file.read(length).decode("utf-8")


def _value(file: BinaryIO, kind: int, size: int) -> Any:
    if kind in _FORMATS:
        form = "<" + _FORMATS[kind]
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]
    if kind == _STRING:
        return _text(file, size)
    if kind != _ARRAY:
        raise _DamagedError(f"its header holds a value of the unknown type {kind}")
    inner, length = struct.unpack("<IQ", file.read(12))
    if length > size:
        raise _DamagedError("a list in its header is longer than the file")
    if inner in _FORMATS:
        form = f"<{length}{_FORMATS[inner]}"
        read = file.read(struct.calcsize(form))
        return list(struct.unpack(form, read)) if length <= _KEPT else length
    if inner != _STRING:
        raise _DamagedError(f"its header holds a list of the unsupported type {inner}")
    for _ in range(length):
        (n_bytes,) = struct.unpack("<Q", file.read(8))
        if n_bytes > size:
            raise _DamagedError("a text in its header is longer than the file")
        file.seek(n_bytes, 1)
    return length


def _check_length(header: GGUFHeader) -> None:
    """Refuse a file that ends before its tensors do, and tensors of unknown types."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size = header.path.stat().st_size
    for name, (shape, kind) in header.tensors.items():
        try:
            block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{header.path} can't be read: its tensor {name!r} is of the type {kind}, which the installed package"
                " gguf doesn't know; update it (pip install -U gguf), or get the file with another quantisation."
            ) from error
        end = header.data + header.offsets[name] + math.prod(shape) // block * n_bytes
        if end > size:
            raise ValueError(
                f"{header.path} is cut short: it has {size} bytes, and {name!r} ends at {end}; download it again."
            )


def _file_type(number: Any) -> str | None:
    """`"Q4_K_M"` for 15: what the file's maker called the mixture of types."""
    from gguf import LlamaFileType

    try:
        return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None
