"""One lock for all use of models: threads get what they would get alone, and nothing in the library goes past it."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import PROMPTS, build, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.models.lock import LOCK, locked

PACKAGE = Path(kv.__file__).parent
SHORT = {"max_new_tokens": 6}


# --- nothing goes past the lock -------------------------------------------------------------------------------


def uses_of_models(tree: ast.AST) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    """Calls that trace or run a model, each with what it stands in: `x.traced.trace(...)`, `x.hf(...)`, `hf(...)`,
    `x.hf.generate(...)`, `from_pretrained` of a model.
    """

    def walk(node: ast.AST, above: list[ast.AST]) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            ends = (".traced.trace", ".hf", ".hf.generate", "AutoModelForCausalLM.from_pretrained")
            if name.endswith(ends) or name in ("hf", "hf.generate"):
                yield node, above
        for child in ast.iter_child_nodes(node):
            yield from walk(child, [*above, node])

    yield from walk(tree, [])


def holds(node: ast.AST) -> bool:
    """Whether what is inside of `node` runs with the lock held."""
    if isinstance(node, ast.With):
        return any(ast.unparse(item.context_expr) == "LOCK" for item in node.items)
    if isinstance(node, ast.FunctionDef):
        return any(ast.unparse(decorator) == "locked" for decorator in node.decorator_list)
    return False


def test_no_model_runs_past_the_lock() -> None:
    found, bare = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call, above in uses_of_models(ast.parse(path.read_text(encoding="utf-8"))):
            found += 1
            if not any(holds(node) for node in above):
                bare.append(f"{path.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call.func)}")
    assert found >= 12, "the lint finds the calls that it is about"
    assert not bare, "hold LOCK, or decorate the function with @locked: " + ", ".join(bare)


@pytest.mark.parametrize(
    ("code", "safe"),
    [
        ("def f(m):\n    m.hf(1)", False),
        ("def f(m):\n    with LOCK:\n        m.hf.generate(1)", True),
        ("@locked\ndef f(m):\n    with m.traced.trace(1):\n        pass", True),
        ("def f(m):\n    with m.traced.trace(1):\n        pass", False),
        ("def f(g):\n    return g.trace()", None),
    ],
)
def test_the_lint_sees_what_it_should(code: str, safe: bool | None) -> None:
    calls = list(uses_of_models(ast.parse(code)))
    assert len(calls) == (safe is not None)
    assert all(any(map(holds, above)) is safe for _, above in calls)


# --- threads --------------------------------------------------------------------------------------------------


def jobs(model: kv.Model) -> dict[str, Callable[[], Any]]:
    """One call of each kind of public function, with a result that can be compared."""
    vectors = vectors_for(model)
    steering = kv.CacheSteering(vectors, 1, 8)
    pairs = kv.ContrastiveSet.from_texts(["Step 1: add", "a dog", "fox"], ["What?", "The lazy fox", "12 + 7"])
    chats = ["What is 12 + 7?"]
    replies = kv.generate(model, chats, steering, generation=SHORT)
    elicit: dict[str, Any] = dict(closing="\nSo the answer is", letters=[("A", "B")], max_new_tokens=2)
    return {
        "generate": lambda: kv.generate(model, PROMPTS, [kv.Nothing(), steering], generation=SHORT).token_ids,
        "stream": lambda: "".join(kv.stream(model, PROMPTS[0], steering, generation=SHORT)),
        "score": lambda: kv.score(model, PROMPTS, ["the fox"] * 3, steering).totals,
        "divergence": lambda: kv.divergence(model, PROMPTS, ["the fox"] * 3, steering).totals,
        "elicit": lambda: [c.logprobs for c in kv.elicit(model, chats, steering, replies, **elicit)],
        "extract": lambda: kv.extract(model, pairs, progress=False).values,
        "extract_activations": lambda: kv.extract_activations(model, pairs, progress=False).residuals,
        "prefill": lambda: torch.stack([layer.keys for layer in model.prefill(PROMPTS[1]).layers]),
        "effective_dose": lambda: kv.effective_dose(model, PROMPTS, steering).added.to_numpy(),
        "logit_lens": lambda: torch.tensor(
            kv.analysis.logit_lens(model, PROMPTS[:2], steering, controls=2).divergence.kl.to_numpy()
        ),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.allclose(a, b, atol=1e-5)
    return str(a) == str(b)


def test_eight_threads_get_what_one_gets(tokenizer: Any) -> None:
    model = kv.load(build("llama"), tokenizer)
    alone = {name: job() for name, job in jobs(model).items()}
    fresh = kv.load(build("llama"), tokenizer)  # whatever is found out once, is found out by threads
    todo = [*jobs(fresh).items()] * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: (item[0], item[1]()), todo))
    wrong = [name for name, result in found if not same(result, alone[name])]
    assert len(found) == 3 * len(alone) and not wrong


def test_the_rotation_is_found_under_the_lock(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kv.load(build("llama"), tokenizer)
    held: list[bool] = []
    model.hf.register_forward_hook(lambda module, given, output: held.append(LOCK.held))
    assert model.rotary.rotates and held and all(held) and not LOCK.held


def test_models_loaded_by_threads_are_whole(tmp_path: Path, tokenizer: Any) -> None:
    """transformers patches itself while it loads; two loads at once would leave the output matrix uninitialised."""
    hf = build("llama", tie_word_embeddings=True)
    hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: kv.load(tmp_path), range(12)))
    for model in [*models, kv.load(tmp_path)]:
        assert model.hf.lm_head.weight is model.hf.model.embed_tokens.weight
        assert torch.equal(model.hf.lm_head.weight, hf.lm_head.weight)


def test_the_lock_may_be_taken_again() -> None:
    @locked
    def outer() -> bool:
        with LOCK:
            return LOCK.held

    assert outer() and not LOCK.held
    with pytest.raises(ZeroDivisionError), LOCK:
        1 / 0  # noqa: B018
    assert not LOCK.held


# --- forks ----------------------------------------------------------------------------------------------------

_CHILD = """
import os, sys, threading, time
import kvsteer_lab as kv
model = kv.load("tiny")
wanted = kv.generate(model, "What is 2 + 3?", generation={"max_new_tokens": 8}).token_ids
if sys.argv[1] == "busy":
    began = threading.Event()
    def ask():
        while True:
            kv.generate(model, ["a b c"] * 40, generation={"max_new_tokens": 60, "eos_token_id": []}, progress=False)
    handle = model.hf.register_forward_hook(lambda *given: began.set())
    threading.Thread(target=ask, daemon=True).start()
    began.wait()
codes = []
for number in range(int(sys.argv[2])):
    time.sleep(0.013 * (number % 7))
    child = os.fork()
    if child == 0:
        try:
            got = kv.generate(model, "What is 2 + 3?", generation={"max_new_tokens": 8}).token_ids
            os._exit(0 if got == wanted else 3)
        except RuntimeError as error:
            print(error, flush=True)
            os._exit(7)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            codes.append(os.waitstatus_to_exitcode(status))
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        codes.append(99)
print("codes", *sorted(codes), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")
@pytest.mark.parametrize("forks", [2, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_fork_works_or_says_why_not(state: str, forks: int) -> None:
    command = [sys.executable, "-c", _CHILD, state, str(forks)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    *said, last = ran.stdout.splitlines()
    codes = last.split()[1:]
    assert len(codes) == forks and set(codes) <= ({"0"} if state == "idle" else {"0", "7"}), "right, or refused"
    assert codes.count("7") == len(said) and (state == "idle" or len(said) > forks / 2), "few forks fall between two"
    for line in said:
        assert "forked while another thread used a model" in line and "'spawn' method" in line


# --- an event loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_within_an_event_loop_as_in_a_notebook(times: int, tokenizer: Any) -> None:
    """A notebook's cells run in one: calls in it, and in threads that it waits for, give what they give alone."""
    model = kv.load(build("llama"), tokenizer)
    work = jobs(model)
    alone = {name: job() for name, job in work.items()}

    async def gather() -> list[tuple[str, Any]]:
        names = [*work] * times
        threads = asyncio.gather(*(asyncio.to_thread(work[name]) for name in names))
        here = [(name, work[name]()) for name in work]  # the loop is held up, and nothing else happens
        return [*here, *zip(names, await threads, strict=True)]

    found = asyncio.run(gather())
    assert len(found) == (times + 1) * len(alone)
    assert not [name for name, result in found if not same(result, alone[name])]
