"""Decoding by a server that takes `kv_steering`: `kvsteer serve`, here or elsewhere, many requests at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import torch

from .._util.text import visible
from ..generation.backend import Finished, check_greedy, ended, last_slot_addition
from ..generation.rows import Row
from ..generation.settings import Settings
from ..interventions.cache import CacheSteering
from ..models.model import Model
from ..serving.request import HEADER, KEY, LIMIT, NAMES_PATH, SteeringRequest
from ..vectors.kv import KVVectors

NAME = "the server"


@dataclass(frozen=True)
class Server:
    """A running `kvsteer serve`. Prompts are sent as token ids; vectors are named, never sent. It decodes greedily.

    What isn't steered, prompts and response prefills included, is an ordinary request. A steered answer counts only if
    the server says in its header what it added: another server ignores the field, and would answer unsteered.

    Args:
        url: where it listens: `"http://127.0.0.1:8000"`.
        vectors: what the server has, by the names that it gave them.
        model: the name under which it serves its model; `None`: its first.
        api_key: the environment variable that holds the server's key.
        concurrency: requests at a time.
        timeout: seconds that one may take.

    >>> Server("http://127.0.0.1:8000").concurrency
    16
    """

    url: str
    vectors: Mapping[str, KVVectors] = field(default_factory=dict, repr=False)
    model: str | None = None
    api_key: str = "KVSTEER_API_KEY"
    concurrency: int = 16
    timeout: float = 600.0

    @property
    def about(self) -> Mapping[str, Any]:
        """The name of the served model. Where the server runs is left out."""
        return {"backend": "server", "model": self._served}

    def check(self, model: Model, rows: Sequence[Row], settings: Settings) -> None:
        """Refuse sampling, vectors that the server doesn't have, and a server that has none or too short a context."""
        check_greedy(settings, NAME)
        requests = [request for row in rows if (request := self._request(row)) is not None]
        asked = {request.vectors for request in requests}
        if asked:
            known, limit = self._listing()
            for name in sorted(asked):
                if name not in known:
                    raise ValueError(f"The server at {self.url} has no vectors {name!r}, but {_names(known)}.")
                own, theirs = self.vectors[name].card, known[name]
                if (own.fingerprint, own.offset_id) != (theirs.get("fingerprint"), theirs.get("offset_id")):
                    raise ValueError(
                        f"The server's vectors {name!r} come from other weights or have another offset token than"
                        " these; start it with the same file."
                    )
            largest = max(max(abs(request.ck), abs(request.cv)) for request in requests)
            if largest > limit:
                raise ValueError(f"The server at {self.url} takes coefficients up to {limit:g}, not {largest:g}.")
        room = self._listed.get("max_model_len")
        need = max((len(row.prompt_ids) + len(row.tail) for row in rows), default=0) + settings.max_new_tokens
        if isinstance(room, int) and need > room:
            raise ValueError(
                f"The longest prompt and its reply need {need} tokens, and the server at {self.url} has a context of"
                f" {room}; lower max_new_tokens, or start the server with a larger --max-model-len."
            )

    def decode(self, model: Model, rows: Sequence[Row], settings: Settings, seed: int) -> Iterator[Finished]:
        """Ask for all rows; each is handed out when it is answered."""
        client = httpx.Client(base_url=self.url, headers=self._headers, timeout=self.timeout)
        with client, ThreadPoolExecutor(self.concurrency) as pool:
            jobs = {pool.submit(self._ask, client, row, settings): i for i, row in enumerate(rows)}
            try:
                for job in as_completed(jobs):
                    yield [(jobs[job], job.result())]
            except httpx.HTTPError as error:
                raise ValueError(f"The server at {self.url} broke off ({visible(error, one_line=True)}).") from error
            finally:
                pool.shutdown(cancel_futures=True)

    def _request(self, row: Row) -> SteeringRequest | None:
        added = last_slot_addition(row, NAME)
        if added is None:
            return None
        method = row.method
        if not isinstance(method, CacheSteering) or row.forced:
            raise ValueError(f"{row.label!r} does more than add vectors by name; run it without backend=...")
        if method.heads is not None or method.vectors.card.keys != "post_rope":
            what = "position-free keys" if method.heads is None else "single heads"
            raise ValueError(f"{row.label!r} has {what}, which the server can't add; run it without backend=...")
        named = torch.stack([method.ck * method.added.keys, method.cv * method.added.values])
        if not torch.equal(added, named.float()):  # a subclass that adds in its own way
            raise ValueError(f"{row.label!r} does more than add vectors by name; run it without backend=...")
        if tuple(row.tail) != (method.vectors.card.offset_id,):
            raise ValueError(f"{row.label!r} has another offset token than its vectors, which the server would read.")
        for name, own in self.vectors.items():
            if own is method.vectors or (
                torch.equal(own.keys, method.vectors.keys) and torch.equal(own.values, method.vectors.values)
            ):
                layers = None if method.layers is None else tuple(method.layers)
                return SteeringRequest(vectors=name, ck=method.ck, cv=method.cv, layers=layers)
        raise ValueError(
            f"The vectors of {row.label!r} have no name on the server; serve them too and pass vectors={{name: ...}}"
            f" (named are {_names(self.vectors)})."
        )

    def _ask(self, client: httpx.Client, row: Row, settings: Settings) -> list[int]:
        request = self._request(row)
        ids = row.prompt_ids if request is not None else (*row.prompt_ids, *row.tail)
        body = dict(
            model=self._served,
            prompt=list(ids),
            max_tokens=settings.max_new_tokens,
            temperature=0,
            repetition_penalty=1,  # otherwise the checkpoint's own, which the caller may have taken back
            ignore_eos=True,  # the caller's end tokens, which are sent, replace the checkpoint's
            stop_token_ids=sorted(settings.eos),
            return_token_ids=True,
            **({} if request is None else {KEY: request.model_dump(mode="json", exclude_none=True)}),
        )
        response = client.post("/v1/completions", json=body)
        answer = _read(response, self.url)
        if request is not None and response.headers.get(HEADER) != request.describe():
            raise ValueError(
                f"The server at {self.url} didn't say that it steered ({HEADER}: {request.describe()}); start it with"
                " `kvsteer serve`."
            )
        try:
            (choice,) = answer["choices"]
            new = [int(token) for token in choice["token_ids"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The server at {self.url} gives no token ids; it must honour return_token_ids."
            ) from error
        new = settings.reply_of(new)
        if not ended(new, settings):
            raise ValueError(
                f"The server at {self.url} ended a reply after {len(new)} of {settings.max_new_tokens} tokens; its"
                " context or its limit of a reply is too small."
            )
        return new

    def _listing(self) -> tuple[dict[str, Mapping[str, Any]], float]:
        """What the server says of its vectors, by name, and its largest coefficient."""
        listing = self._get(NAMES_PATH)
        try:
            return {str(one["name"]): dict(one) for one in listing["vectors"]}, float(listing.get("limit", LIMIT))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The server at {self.url} lists its vectors in a form that isn't known; start it with `kvsteer serve`"
                " of the same version."
            ) from error

    @property
    def _served(self) -> str:
        return str(self._listed["id"])

    @cached_property
    def _listed(self) -> Mapping[str, Any]:
        """What the server says of the model that is asked."""
        found = self._get("/v1/models").get("data")
        models = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        models = [one for one in models if isinstance(one.get("id"), str)]
        if not models:
            raise ValueError(f"The server at {self.url} lists no model; start it with `kvsteer serve`.")
        chosen = [one for one in models if self.model in (None, one["id"])]
        if not chosen:
            there = ", ".join(sorted(visible(one["id"], one_line=True) for one in models))
            raise ValueError(f"The server at {self.url} serves no model {self.model!r}, but {there}.")
        return chosen[0]

    @property
    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.api_key)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _get(self, path: str) -> dict[str, Any]:
        try:
            return _read(httpx.get(f"{self.url}{path}", headers=self._headers, timeout=self.timeout), self.url)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ValueError(f"No server answers at {self.url} ({visible(error, one_line=True)}); start it.") from error


def _read(response: httpx.Response, url: str) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise ValueError(f"The server at {url} answered {response.status_code} without JSON.") from error
    if response.status_code != 200 or not isinstance(found, dict):
        said = found.get("error", found) if isinstance(found, dict) else found
        said = said.get("message", said) if isinstance(said, dict) else said
        raise ValueError(f"The server at {url} answered {response.status_code}: {visible(said, one_line=True)[:300]}")
    return found


def _names(known: Mapping[str, Any]) -> str:
    return ", ".join(sorted(known)) or "none"
