"""`kvsteer serve`: the command that it prints and becomes, and what it refuses before anything starts."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.serving.catalogue import VARIABLE, Catalogue
from kvsteer_lab.serving.fitting import check_fit, read_served_model
from kvsteer_lab.serving.launch import build_command, check_flags, locate_model, read_pairs, show_command
from kvsteer_lab.vectors.cards import Card


@pytest.fixture(scope="module")
def tiny() -> kv.Model:
    return kv.load("tiny")


@pytest.fixture(scope="module")
def vectors(tiny: kv.Model) -> kv.KVVectors:
    card = Card(tiny.name, tiny.model_type, tiny.fingerprint, "torch.float32", "post_rope", 3, None, 2)
    shape = (tiny.n_layers, tiny.n_kv_heads, tiny.head_dim)
    return kv.KVVectors(torch.ones(shape), torch.ones(shape), card)


@pytest.fixture
def file(vectors: kv.KVVectors, tmp_path: Path) -> Path:
    return vectors.save(tmp_path / "v.safetensors")


def test_the_command_names_import_paths_and_the_loopback_interface(file):
    environment, words = build_command("folder", Catalogue.load({"stepwise": file}), ["--port", "8001"], python="py")
    assert words[:5] == ["py", "-m", "vllm.entrypoints.openai.api_server", "--model", "folder"]
    assert words[words.index("--middleware") + 1] == "kvsteer_lab.serving.vllm_plugin.SteeringMiddleware"
    assert words[words.index("--scheduler-cls") + 1] == "kvsteer_lab.serving.vllm_plugin.SteeringScheduler"
    assert json.loads(words[words.index("--kv-transfer-config") + 1])["kv_connector"] == "SteeringConnector"
    assert words[words.index("--host") + 1] == "127.0.0.1" and words[-2:] == ["--port", "8001"]
    said = json.loads(environment[VARIABLE])
    assert said["vectors"] == {"stepwise": str(file)} and said["behind_middleware"] is True
    chosen = build_command("folder", Catalogue.load({"stepwise": file}), ["--host=0.0.0.0"])[1]
    assert "--host" not in chosen and chosen[-1] == "--host=0.0.0.0"


def test_one_file_alone_needs_vllm_and_nothing_is_registered_with_it():
    """A release of vLLM can break that file only, and where this package is merely installed vLLM serves as before."""
    root = Path(kv.__file__).parent
    named = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            named |= {path.relative_to(root).as_posix() for one in modules if one.split(".")[0] == "vllm"}
    assert named == {"serving/vllm_plugin.py"}
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["vllm"] == ["vllm>=0.32,<0.34"]
    assert not [group for group in project.get("entry-points", {}) if "vllm" in group]


def test_vectors_in_the_models_folder_are_refused(file):
    """vLLM would read them as weights, and end minutes later."""
    with pytest.raises(ValueError, match="lies in the model's folder"):
        build_command(str(file.parent), Catalogue.load({"stepwise": file}))


def test_a_printed_command_hides_keys():
    words = ["vllm", "--api-key", "one", "two", "--port", "1", "--api-key=three", "--api_key", "four"]
    shown = show_command({"A": "b c"}, words)
    assert shown == "A='b c' vllm --api-key ... ... --port 1 --api-key=... --api_key ..."
    assert show_command({}, ["vllm", "--hf-token", "one", "--port", "1"]) == "vllm --hf-token ... --port 1"
    assert show_command({}, ["vllm", "--hf_token=one"]) == "vllm --hf_token=..."


@pytest.mark.parametrize(
    "flags",
    [
        ["--speculative-config", "{}"],
        ["--speculative-config.method=ngram"],
        ["--enable-lora"],
        ["--enable_sleep_mode"],
        ["--kv-cache-dtype", "fp8"],
        ["--kv_cache_dtype=fp8_e5m2"],
        ["--kv-transfer-config", "{}"],
        ["--kv-transfer-config.kv_connector", "x"],
        ["--scheduler-cls", "x"],
        ["--logits-processors=x"],
        ["--config", "f.yaml"],
        ["--model", "other"],
        ["--pipeline-parallel-size", "2"],
    ],
    ids=" ".join,
)
def test_flags_that_steering_cannot_go_with(flags):
    with pytest.raises(ValueError, match=r"leave .* out"):
        check_flags(flags)


def test_other_flags_are_taken_over():
    check_flags(["--dtype", "float32", "--kv-cache-dtype", "auto", "--pipeline-parallel-size", "1", "--api-key", "x"])


def test_models_by_name_and_folder(tmp_path, monkeypatch):
    assert Path(locate_model("tiny"), "config.json").is_file()
    assert locate_model(str(tmp_path)) == str(tmp_path)
    assert locate_model("owner/model") == "owner/model"
    for name in ("config.json", "source.json", "model.safetensors"):
        place = tmp_path / "models" / "smollm2-135m" / "index"
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("{}")
    monkeypatch.setenv("KVSTEER_CACHE_DIR", str(tmp_path))
    assert locate_model("smollm2-135m") == str(place)
    with pytest.raises(ValueError, match="There is no folder"):
        locate_model("./nowhere/model")
    with pytest.raises(ValueError, match="safetensors"):
        locate_model("model.gguf")


@pytest.mark.parametrize("named", [["stepwise"], ["=x"], ["a="], ["a=x", "a=y"]], ids=str)
def test_vectors_are_named_once_each(named):
    with pytest.raises(ValueError):
        read_pairs(named)


def test_a_served_checkpoint_without_a_tensor_is_refused(tmp_path):
    for file in Path(locate_model("tiny")).iterdir():
        shutil.copy(file, tmp_path / file.name)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights \(model.layers.2.mlp.up_proj.weight\)"):
        read_served_model(str(tmp_path))


def test_vectors_must_fit_the_model(tiny, vectors, tmp_path):
    model = read_served_model(locate_model("tiny"))
    assert model.fingerprint == tiny.fingerprint and model.shape == tiny.shape

    def check(any_weights=False, **changes):
        card = dataclasses.replace(vectors.card, **changes)
        path = kv.KVVectors(vectors.keys, vectors.values, card).save(tmp_path / "x.safetensors")
        return check_fit(Catalogue.load({"x": path}).vectors, model, any_weights=any_weights)

    assert check() == []
    head, weights, config = tiny.fingerprint.split("-")
    with pytest.raises(ValueError, match="other weights"):
        check(fingerprint=f"{head}-{'0' * len(weights)}-{config}")
    assert "other weights" in check(True, fingerprint=f"{head}-{'0' * len(weights)}-{config}")[0]
    assert "another config" in check(fingerprint=f"{head}-{weights}-{'0' * len(config)}")[0]
    assert "another version" in check(fingerprint="0123456789abcdef")[0]
    with pytest.raises(ValueError, match="are of a gpt2"):
        check(model_type="gpt2")
    with pytest.raises(ValueError, match="offset token 99999"):
        check(offset_id=99999)
    small = kv.KVVectors(vectors.keys[:2], vectors.values[:2], vectors.card).save(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="2 layers, 2 KV heads"):
        check_fit(Catalogue.load({"x": small}).vectors, model)


def test_the_command_line_prints_the_command_and_becomes_it(file, monkeypatch, capsys):
    became = []
    monkeypatch.setattr(os, "execve", lambda *words: became.append(words))
    arguments = ["serve", "tiny", "--vectors", f"a={file}", "--vectors", f"b={file}", "--limit", "8", "--dry-run"]
    main([*arguments, "--", "--port", "8001"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{VARIABLE}=") and printed.endswith("--port 8001\n") and not became
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"vLLM isn't installed here; get it with .*kvsteer-lab\[vllm\]"):
        main(arguments[:-1])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    main([*arguments[:-1], "--", "--api-key", "secret"])
    ((program, words, environment),) = became
    assert program == words[0] and words[-2:] == ["--api-key", "secret"]
    assert json.loads(environment[VARIABLE])["limit"] == 8 and "PATH" in environment
    assert "secret" not in capsys.readouterr().out


def test_the_command_line_refuses_before_anything_starts(file, tmp_path):
    for arguments in (
        ["serve", "tiny"],
        ["serve", "tiny", "--vectors", "stepwise"],
        ["serve", "tiny", "--vectors", f"A/B={file}"],
        ["serve", "tiny", "--vectors", f"a={tmp_path / 'none.safetensors'}"],
        ["serve", "tiny", "--vectors", f"a={file}", "--", "--enable-lora"],
        ["serve", "tiny-control", "--vectors", f"a={file}"],
        ["serve", "no-such-model", "--vectors", f"a={file}"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--dry-run"] if "--" not in arguments else arguments)
        assert str(stopped.value).startswith("kvsteer: ") and "\n" not in str(stopped.value).strip()


def test_the_compose_file_publishes_on_the_loopback_interface_and_needs_a_key():
    text = (Path(__file__).parents[2] / "docs" / "serving_compose.yaml").read_text()
    service = yaml.safe_load(text)["services"]["kvsteer"]
    assert service["ports"] == ["127.0.0.1:8000:8000"] and all(one.endswith(":ro") for one in service["volumes"])
    assert service["environment"]["VLLM_API_KEY"].startswith("${VLLM_API_KEY:?")
    words = service["entrypoint"][-1].split()
    assert words[words.index("serve") + 1 : words.index("--")] == [
        "/model",
        "--vectors",
        "stepwise=/vectors/stepwise.safetensors",
    ]
    check_flags(words[words.index("--") + 1 :])
