"""Vectors in a repository of the Hugging Face hub: one safetensors file, and its card as the page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from .._util.text import visible

_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def check_name(name: str) -> str:
    """A repository's name, `user/name`.

    Raises:
        ValueError: anything else.

    >>> check_name("me/brief")
    'me/brief'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} is no repository of the hub; write it as 'user/name'.")
    return name


def push_files(
    name: str, file: str, write: Callable[[Path], object], page: str, *, private: bool, endpoint: str | None
) -> str:
    """Upload a file and the page beside it in one commit; the repository is made where there is none.

    Args:
        name: of the repository.
        file: the file's name there.
        write: writes the file to a path.
        page: the markdown of `README.md`.
        private: whether a new repository is private.
        endpoint: another hub than huggingface.co.

    Returns:
        The commit's address.

    Raises:
        ValueError: a wrong name, no token, or what the hub refuses, with its reason.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    check_name(name)
    api = HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        write(path)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            operations = [
                CommitOperationAdd(file, path),
                CommitOperationAdd("README.md", page.encode()),
            ]
            done = api.create_commit(name, operations, commit_message=f"{file} from kvsteer_lab")
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            reason = visible(str(error).strip().splitlines()[0])
            raise ValueError(
                f"The hub didn't take {name!r} ({reason}); log in with `hf auth login`, or check the name."
            ) from error
    return str(done.commit_url)


def fetch_file(name: str, file: str, revision: str | None, endpoint: str | None) -> Path:
    """The local copy of a repository's file.

    Args:
        name, file, revision, endpoint: what is fetched, and from where.

    Raises:
        ValueError: a wrong name, or what the hub refuses, with its reason.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    check_name(name)
    try:
        return Path(hf_hub_download(name, file, revision=revision, endpoint=endpoint))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = visible(str(error).strip().splitlines()[0])
        raise ValueError(f"The hub gives no {file} of {name!r} ({reason}); check the name and the network.") from error
