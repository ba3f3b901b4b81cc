"""Starting the server for one GGUF file in llama.cpp."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from ..models.gguf import find_gguf
from ..models.gguf_header import read_header
from ..models.tokens import encode
from ..models.weightless import load_weightless
from .catalogue import Catalogue
from .launch import LOOPBACK
from .llama_engine import LlamaEngine
from .llama_fitting import check_file_fit, check_same_model, describe_precision, order_of_keys
from .one_sequence import SELF_TEST, OneSequence
from .one_sequence_server import ServedFile, build_app

API_KEY = "KVSTEER_API_KEY"
"""The environment variable with the key that clients must send; `kv.backends.Server` reads the same."""


@dataclass(frozen=True)
class FileServer:
    """How a GGUF file is served.

    Attributes:
        path: the file, or a folder with one.
        host, port: where to listen; port 0 is any free one. Beyond this machine a key is needed.
        context: tokens of prompt and reply together, at most as many as the model has positions.
        cache: how keys and values are held: `"f32"` or `"f16"`.
        threads: of the processor; `None`: one a core.
        any_weights, check_weights: as in `check_file_fit`.
    """

    path: str
    host: str = LOOPBACK
    port: int = 8000
    context: int = 2048
    cache: str = "f32"
    threads: int | None = None
    any_weights: bool = False
    check_weights: bool = True

    def run(self, catalogue: Catalogue, say: Callable[[str], None]) -> None:
        """Check that vectors and file belong together, test that the edit has an effect, and serve until interrupted.

        Args:
            catalogue: the vectors that requests may name.
            say: is told what the file's precision means, what is doubtful, and the address.

        Raises:
            ImportError: xllamacpp isn't installed.
            ValueError: no such file, one that can't be steered, vectors of another model, an edit without effect, an
                address that is taken, or one beyond this machine without a key.
        """
        key = os.environ.get(API_KEY) or None
        check_address(self.host, key)
        file = find_gguf(Path(self.path).expanduser())
        if file is None:
            raise ValueError(
                f"llama.cpp serves GGUF files, not {self.path}; give a .gguf file, or leave --backend out."
            )
        with bind(self.host, self.port) as listener:
            self._serve(file, catalogue, key, listener, say)

    def _serve(
        self,
        file: Path,
        catalogue: Catalogue,
        key: str | None,
        listener: socket.socket,
        say: Callable[[str], None],
    ) -> None:
        model, quantisation = load_weightless(file), read_header(file).quantisation
        room = min(self.context, model.context or self.context)  # beyond it the model was never trained
        engine = LlamaEngine(file, room, self.cache, self.threads or os.cpu_count() or 1)
        check_same_model(model, engine, file)
        doubts = check_file_fit(
            catalogue.vectors, model, file, any_weights=self.any_weights, check_weights=self.check_weights
        )
        precision = describe_precision(quantisation, self.cache)
        for sentence in (*precision, *doubts):
            say(f"kvsteer: {sentence}")
        sequence = OneSequence(engine, catalogue, order_of_keys(model, engine))
        sequence.self_test(encode(model.tokenizer, SELF_TEST))
        about = {"weights": quantisation or "float", "cache": self.cache, "notes": [*precision, *doubts]}
        app = build_app(sequence, ServedFile(file.stem, model, about), key)
        address = show_address(self.host, listener.getsockname()[1])
        say(f"kvsteer: {file.stem} at {address}, one sequence at a time")
        server = uvicorn.Server(uvicorn.Config(app, self.host, log_level="warning", timeout_graceful_shutdown=5))
        sequence.stopping = lambda: server.should_exit
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def check_address(host: str, key: str | None) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        ValueError: such an address.

    >>> check_address("localhost", None)
    >>> check_address("0.0.0.0", None)
    Traceback (most recent call last):
    ValueError: On 0.0.0.0 other machines could ask this server; set KVSTEER_API_KEY to a key, or leave --host out.
    """
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and key is None:
        raise ValueError(
            f"On {host} other machines could ask this server; set {API_KEY} to a key, or leave --host out."
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, before anything else is done. It doesn't listen yet.

    Raises:
        ValueError: the port is taken, or there is no such address.

    >>> taken = bind("127.0.0.1", 0)
    >>> taken.listen()
    >>> bind("127.0.0.1", taken.getsockname()[1])
    Traceback (most recent call last):
    ValueError: Nothing can listen at http://127.0.0.1:...; choose another --port or --host.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a moment ago
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"Nothing can listen at {show_address(host, port)} ({reason}); choose another --port or --host."
        ) from error
    return listener


def show_address(host: str, port: int) -> str:
    """As a browser takes it.

    >>> show_address("::1", 8000)
    'http://[::1]:8000'
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
