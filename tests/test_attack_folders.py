"""Folders that somebody else wrote: models, releases, vectors with every field of their card wrong. Each is refused in
one sentence or read; no code in them is run, and nothing is written outside."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mutating import VALUES, mutants, nothing_is_run, read_or_refused
from random_models import build, vectors_for
from safetensors.torch import load_file, save_file

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main

FIXTURES = Path(__file__).parent / "fixtures"
WRONG: tuple[Any, ...] = (None, -1, 0, 3, 1e300, 0.5, True, "", "foo", [], ["a"], {}, {"a": 1}, "9" * 400, [[[]]])
pytestmark = pytest.mark.filterwarnings("ignore")


class Trap:
    """Pickled, it leaves a file behind where it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch trapped",))


# --- models -----------------------------------------------------------------------------------------------------------

CODE = "open('trapped', 'w')\nclass Model: pass\n"
FIELDS = (
    *("model_type", "architectures", "num_hidden_layers", "num_key_value_heads", "hidden_size", "head_dim", "dtype"),
    *("num_attention_heads", "vocab_size", "rope_parameters", "tie_word_embeddings", "max_position_embeddings"),
)


def hostile_models(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """By name, what makes a good model's folder a bad one."""

    def edit(file: str, **changes: Any) -> Callable[[], None]:
        path = folder / file
        return lambda: void(path.write_text(json.dumps(json.loads(path.read_text()) | changes)))

    def put(file: str, content: bytes) -> Callable[[], None]:
        return lambda: void((folder / file).write_bytes(content))

    def swap(file: str, target: str) -> Callable[[], None]:
        def link() -> None:
            (folder / file).unlink()
            (folder / file).symlink_to(target)

        return link

    def auto_map() -> None:
        (folder / "modeling_trap.py").write_text(CODE)
        own = {"AutoConfig": "modeling_trap.Config", "AutoModelForCausalLM": "modeling_trap.Model"}
        edit("config.json", auto_map=own, model_type="trap")()

    def pickled() -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))

    yield "code of its own", auto_map
    yield "a pickle", pickled
    yield "a pickle under another name", put("model.safetensors", pickle.dumps(Trap()))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        yield f"{file} is empty", put(file, b"")
        yield f"{file} is deep", put(file, b"[" * 100_000)
        yield f"{file} is text", put(file, b"hello")
        yield f"{file} is a link to nothing", swap(file, "nowhere")
        yield f"{file} is a link to itself", swap(file, file)
    for field in FIELDS:
        for value in (None, -1, "foo", 10**12):
            yield f"{field} is {value!r}", edit("config.json", **{field: value})


def void(_: object) -> None: ...


MODELS = 3 + 20 + 4 * len(FIELDS)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_hostile_model_is_refused_or_loaded(
    step: int, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, folder = tmp_path / "good", tmp_path / "model"
    build("llama").save_pretrained(good)
    tokenizer.save_pretrained(good)
    names = [name for name, _ in hostile_models(folder)]
    assert len(names) == MODELS >= 48
    failed: dict[str, str] = {}
    for number in range(0, MODELS, step):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        dict(hostile_models(folder))[names[number]]()
        try:
            read_or_refused(lambda: kv.load(folder), seconds=30)
        except Exception as error:
            failed[names[number]] = f"{type(error).__name__}: {str(error)[:300]}"
    assert not failed, json.dumps(failed, indent=1)
    assert not list(tmp_path.rglob("trapped"))


# --- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_vectors_with_wrong_cards_or_tensors_are_refused_or_usable(step: int, tmp_path: Path, model: kv.Model) -> None:
    """Each field of the card, with no checksum to tell: what is read can be printed, saved and steered with."""
    path = vectors_for(model).save(tmp_path / "v.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors, card = load_file(path), json.loads(about["card"])
    wrong: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
        (card | {field: value}, tensors) for field in card for value in WRONG
    ]
    shapes = [(0,), (4, 2), (4, 2, 0), (4, 2, 17), (3, 2, 16), (4, 2, 16, 1)]
    wrong += [(card, tensors | {"keys": torch.ones(shape)}) for shape in shapes]
    kinds = [torch.int64, torch.bool, torch.float16, torch.complex64, torch.float64]
    wrong += [(card, tensors | {"values": torch.ones(4, 2, 16).to(kind)}) for kind in kinds]
    wrong += [(card, tensors | {"keys": torch.full((4, 2, 16), bad)}) for bad in (float("nan"), float("inf"))]
    assert len(wrong) >= 74
    refused = 0
    for changed, numbers in wrong[::step]:
        save_file(numbers, path, metadata={"format": about["format"], "card": json.dumps(changed)})
        found, said = read_or_refused(lambda: kv.KVVectors.load(path))
        refused += bool(said)
        if not said:
            repr(found), str(found.card), found.norms()
            read_or_refused(lambda found=found: kv.CacheSteering(found, 1, 1).check(model))  # type: ignore[misc]
    assert refused > len(wrong[::step]) / 2


# --- releases ---------------------------------------------------------------------------------------------------------


def is_whole(path: Path) -> bool:
    try:
        return {"arguments", "metrics", "samples"} <= json.loads(path.read_text()).keys()
    except ValueError:
        return False


def hostile_release(root: Path, rng: random.Random) -> None:
    """A few runs, some damaged, with names, links and places that lead astray."""
    runs = [path for path in sorted((FIXTURES / "published").rglob("*.json")) if is_whole(path)]
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(runs).read_bytes()
        if rng.random() < 0.7:
            content = next(mutants(content, 1, rng.randrange(10**9)))
        elif rng.random() < 0.7:
            told = json.loads(content)
            part = rng.choice((told, told["arguments"], told["metrics"], rng.choice(told["samples"])))
            part[rng.choice(list(part))] = rng.choice(WRONG)
            content = json.dumps(told).encode()
        folder = rng.choice(("baseline_results", "steering_results", "a\x1b[31m", "$x$ <b>", "d/" * 30, "Ω\u202e"))
        name = rng.choice(("a.json", "b.json", "\x1b]0;t\x07.json", "..json", "$1 {x}.json", "x" * 200 + ".json"))
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    odd = rng.randrange(6)
    if odd == 0:
        (root / "link.json").symlink_to("/etc/passwd")
    elif odd == 1:
        (root / "loop").symlink_to(root)
    elif odd == 2:
        os.mkfifo(root / "pipe.json")
    elif odd == 3:
        (root / "huge.json").write_bytes(b"[" * 10**6)
    elif odd == 4:
        (root / "value.json").write_bytes(rng.choice(VALUES))


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and such names are made on POSIX")
@pytest.mark.parametrize("n", [12, pytest.param(341, marks=pytest.mark.slow)])
def test_a_hostile_release_is_audited_without_leaving_it(n: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    codes: set[Any] = set()
    for seed in range(n):
        root, out = tmp_path / f"r{seed}", tmp_path / f"out{seed}"
        root.mkdir()
        hostile_release(root, random.Random(seed))
        before = sorted(root.rglob("*"))
        code: Any = 0
        with nothing_is_run(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                main(["audit", str(root), "--out", str(out)])
            except SystemExit as stopped:
                code = stopped.code
        said = capsys.readouterr()
        codes.add(code if isinstance(code, int) else 1)
        assert isinstance(code, int) or "\n" not in code, (seed, code)
        assert code in (0, 2) or (isinstance(code, str) and code.startswith("kvsteer: ")), (seed, code)
        shown = f"{said.out}{said.err}{code}"
        assert not {"\x1b", "\x07", "\u202e"} & set(shown) and "root:x:0" not in shown, seed
        assert sorted(root.rglob("*")) == before, (seed, "nothing in the release is changed")
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(root)
    assert 2 in codes
