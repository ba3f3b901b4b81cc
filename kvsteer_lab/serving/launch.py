"""The command that serves a model with vLLM and cache steering: vLLM's own, with import paths of this package.

Nothing is registered with vLLM: where this package is merely installed, vLLM serves as before.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from ..models.fetching import fetch
from ..models.missing import BUNDLED, refuse_missing_path
from ..models.named import find_named
from .catalogue import VARIABLE, Catalogue

PLUGIN = "kvsteer_lab.serving.vllm_plugin"
"""All that vLLM is given by import path. It imports vLLM, so nothing imports it."""
ENGINE = {
    "scheduler_cls": f"{PLUGIN}.SteeringScheduler",
    "logits_processors": [f"{PLUGIN}:SteeringParameters"],
    "kv_transfer_config": {
        "kv_connector": "SteeringConnector",
        "kv_connector_module_path": PLUGIN,
        "kv_role": "kv_consumer",
    },
}
"""What an engine without a server is given as well, as arguments of `vllm.LLM`."""
MIDDLEWARE = f"{PLUGIN}.SteeringMiddleware"
LOOPBACK = "127.0.0.1"

_OURS = "--scheduler-cls --logits-processors --kv-transfer-config --model --config".split()
_SECRETS = ("--api-key", "--hf-token")
_REFUSED = {
    "--speculative-config": "speculative decoding",
    "--spec-method": "speculative decoding",
    "--spec-model": "speculative decoding",
    "--enable-lora": "LoRA adapters",
    "--enable-sleep-mode": "sleep mode",
    "--no-enable-chunked-prefill": "prefills in one piece",
    "--pipeline-parallel-size": "pipeline parallelism",
    "--grpc": "gRPC",
    "--headless": "an engine without a server",
}


def locate_model(name: str) -> str:
    """Where the engine finds a model: the folder of a named one (fetched if need be), a folder, or a hub id.

    Raises:
        ValueError: there is nothing of that name.

    >>> Path(locate_model("tiny")).name
    'tiny'
    """
    if (named := find_named(name)) is not None:
        return str(fetch(*named))
    if name in BUNDLED:
        return str(files("kvsteer_lab.models") / "bundled" / name)
    if name.endswith(".gguf"):
        raise ValueError(f"vLLM serves folders with safetensors, not {name}; give the folder, or a named model.")
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.absolute())
    refuse_missing_path(name)
    return name


def read_pairs(named: Sequence[str]) -> dict[str, str]:
    """Vectors as the command line names them: `NAME=FILE`, several times.

    Raises:
        ValueError: a text without `=`, or a name given twice.

    >>> read_pairs(["stepwise=s.safetensors"])
    {'stepwise': 's.safetensors'}
    """
    found: dict[str, str] = {}
    for text in named:
        name, mark, path = text.partition("=")
        if not (mark and name and path):
            raise ValueError(f"Vectors are named as NAME=FILE.safetensors, not as {text!r}.")
        if name in found:
            raise ValueError(f"Two files are named {name!r}; give each its own name.")
        found[name] = path
    return found


def check_flags(flags: Sequence[str]) -> None:
    """Refuse flags of vLLM that steering can't go with, or that are given already.

    Raises:
        ValueError: such a flag.

    >>> check_flags(["--port", "8001", "--max-model-len", "2048"])
    >>> check_flags(["--enable_lora"])
    Traceback (most recent call last):
    ValueError: Cache steering can't serve LoRA adapters; leave --enable_lora out.
    """
    for i, flag in enumerate(flags):
        name, _, value = flag.partition("=")
        plain = name.replace("_", "-")
        value = value or (flags[i + 1] if i + 1 < len(flags) else "")
        if plain in _OURS or plain.startswith(("--kv-transfer-config", "--config.")):
            raise ValueError(f"{name} is set by kvsteer serve; leave it out.")
        if any(plain == one or plain.startswith(f"{one}.") for one in _REFUSED):
            what = next(said for one, said in _REFUSED.items() if plain == one or plain.startswith(f"{one}."))
            if plain != "--pipeline-parallel-size" or value != "1":
                raise ValueError(f"Cache steering can't serve {what}; leave {name} out.")
        if plain == "--kv-cache-dtype" and value.startswith(("fp8", "int", "nvfp4", "turboquant")):
            raise ValueError(f"Cache steering can't serve a quantised cache; leave {name} {value} out.")


def build_command(
    model: str, catalogue: Catalogue, flags: Sequence[str] = (), *, python: str = sys.executable
) -> tuple[dict[str, str], list[str]]:
    """The server's command.

    Args:
        model: as `locate_model` gives it.
        catalogue: the vectors that requests may name.
        flags: vLLM's own, taken over as they are. Without `--host` it listens on the loopback interface only.
        python: the interpreter that has vLLM.

    Returns:
        What is added to the environment, and the words of the command.

    Raises:
        ValueError: as `check_flags`; or vectors in the model's own folder.
    """
    check_flags(flags)
    for one in catalogue.vectors.values():
        if Path(one.path).resolve().parent == Path(model).resolve():
            raise ValueError(
                f"{one.path} lies in the model's folder, where vLLM reads every safetensors file as weights; move it"
                " elsewhere."
            )
    names = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    # `vllm serve` is the same, but some builds of vLLM install no such script that works
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    words += ["--scheduler-cls", str(ENGINE["scheduler_cls"])]
    words += ["--logits-processors", *ENGINE["logits_processors"]]
    words += ["--kv-transfer-config", json.dumps(ENGINE["kv_transfer_config"])]
    words += ["--middleware", MIDDLEWARE]
    words += [] if names & {"--host", "--uds"} else ["--host", LOOPBACK]
    return {VARIABLE: catalogue.to_variable()}, [*words, *flags]


def show_command(environment: Mapping[str, str], words: Sequence[str]) -> str:
    """The command as a shell takes it; API keys and the hub's token in it are left out.

    >>> show_command({"A": "b c"}, ["vllm", "--api-key", "secret"])
    "A='b c' vllm --api-key ..."
    """
    shown, hidden = [], False
    for word in words:
        is_key = word.replace("_", "-").startswith(_SECRETS)
        if hidden and not word.startswith("--"):
            shown.append("...")
        elif is_key and "=" in word:
            shown.append(word.partition("=")[0] + "=...")
        else:
            shown.append(shlex.quote(word))
        hidden = (is_key and "=" not in word) or (hidden and not word.startswith("--"))
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), *shown])
