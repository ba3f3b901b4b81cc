"""Bad input gets one sentence that names cause and remedy, before anything is computed or written."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import random_models
import torch
from random_models import PROMPTS, build, vectors_for

import kvsteer_lab as kv
from kvsteer_lab._util.files import write_atomically
from kvsteer_lab.tasks.base import Question


@pytest.fixture
def idle(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> kv.Model:
    """The model, which must not be asked to compute anything."""

    def computed(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("something was computed before the input was refused")

    monkeypatch.setattr(model.hf, "forward", computed)
    monkeypatch.setattr(model.hf, "generate", computed)
    for module in ("generation.filling", "models.prefill"):
        monkeypatch.setattr(f"kvsteer_lab.{module}.fill", computed)
    for module in ("vectors.extraction", "vectors.norms", "models.prefill"):
        monkeypatch.setattr(f"kvsteer_lab.{module}.last_slots", computed)
    return model


def one_sentence(error: BaseException) -> str:
    """The message, checked to be a single sentence in a single line."""
    message = str(error)
    assert (
        message.endswith((".", "..."))
        and "\n" not in message
        and not re.search(r"[a-z]\. [A-Z].*[a-z]\. [A-Z]", message)
    ), message
    return message


# --- prompts --------------------------------------------------------------------------------------------------

EVERY_WAY: list[Callable[..., Any]] = [
    lambda model, prompts, **rest: kv.generate(model, prompts, **rest),
    lambda model, prompts, **rest: kv.score(
        model, prompts, ["fox"] * (1 if isinstance(prompts, str) else len(prompts)), **rest
    ),
    lambda model, prompts, **rest: kv.stream(model, prompts, **rest),
]
every_way = pytest.mark.parametrize("call", EVERY_WAY, ids=["generate", "score", "stream"])


@every_way
@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "Prompt 0 is an empty string; every prompt needs some text"),
        ([""], "Prompt 0 is an empty string; every prompt needs some text"),
        ([], "There are no prompts; pass at least one string or chat"),
        ([None], "Prompt 0 is neither text nor a chat"),
        ([7], "Prompt 0 is neither text nor a chat"),
        (
            [[{"role": "usr", "content": "fox"}]],
            "Message 0 of prompt 0 has the role 'usr', which is not 'user'; correct it",
        ),
        ([[{"role": "User", "content": "fox"}]], "Message 0 of prompt 0 has the role 'User', which is not 'user'"),
        ([[{"role": None, "content": "fox"}]], "Message 0 of prompt 0 has None for its role; roles are texts"),
        (
            pd.DataFrame({"question": ["fox"]}),
            r"Prompts are a whole table; pass the column .*, frame\['question'\] say",
        ),
        ([Question("q", "fox", "1")], r"Prompt 0 is a Question; pass its text, question\.text, or task\.chat"),
        ([[{"role": "user"}]], r"Prompt 0 is neither text nor a chat \(a list of dicts with 'role' and 'content'\)"),
        ("dog " * 600, r"The prompt has \d+ tokens, but the context of .* is 512; shorten it"),
    ],
)
def test_bad_prompts(call: Callable[..., Any], prompts: Any, message: str, idle: kv.Model) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        call(idle, prompts)
    one_sentence(refused.value)


def test_a_role_that_only_a_template_knows_is_rendered(model: kv.Model) -> None:
    assert kv.generate(model, [[{"role": "ipython", "content": "fox"}]], generation={"max_new_tokens": 1}).texts


@every_way
def test_a_prompt_that_leaves_no_room_for_an_answer(call: Callable[..., Any], idle: kv.Model) -> None:
    prompt = "?" * (512 - len(idle.encode("?")))
    assert len(idle.encode(prompt)) == 511
    message = (
        r"A prompt of 511 tokens and \d+ new ones need \d+ slots, but the context of .* is 512; shorten the prompt or"
        r" lower max_new_tokens"
    )
    with pytest.raises(ValueError, match=message) as refused:
        call(idle, prompt)
    one_sentence(refused.value)


def test_an_empty_string_among_others_is_named(idle: kv.Model) -> None:
    with pytest.raises(ValueError, match="Prompt 2 is an empty string"):
        kv.generate(idle, ["a", "b", ""])


@every_way
def test_no_chat_template(call: Callable[..., Any], tokenizer: Any) -> None:
    bare = kv.load(build("llama"), random_models.tokenizer(template=None))
    with pytest.raises(
        ValueError,
        match=r"no chat template, .*; load the model with template=kv\.PlainTemplate\(.*\) \(a command's --template\),"
        r" or set tokenizer\.",
    ) as refused:
        call(bare, "fox")
    one_sentence(refused.value)
    with pytest.raises(ValueError, match="no chat template"):
        kv.ContrastiveSet.from_chats(
            [[{"role": "user", "content": "a"}]], [[{"role": "user", "content": "b"}]], bare.tokenizer
        )
    assert call(bare, "fox", chat=False) is not None


def test_a_system_message_where_the_template_has_no_system_role(tokenizer: Any) -> None:
    from families import FAMILIES

    family = FAMILIES["gemma"]
    model = kv.load(build("llama"), random_models.tokenizer(family.special, family.template, **family.named))
    with pytest.raises(
        ValueError, match=r"System role not supported.*put the system message's text into the first user message"
    ) as refused:
        kv.generate(model, [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "fox"}]])
    one_sentence(refused.value)
    assert kv.generate(model, "fox", generation={"max_new_tokens": 1}).texts, (
        "without a system message the template will do"
    )


@pytest.mark.filterwarnings("error")
def test_a_missing_pad_token_is_no_error(tokenizer: Any) -> None:
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    bare = random_models.tokenizer(**named)
    assert bare.pad_token is None
    model, padded = kv.load(build("llama"), bare), kv.load(build("llama"), tokenizer)
    steering = kv.CacheSteering(vectors_for(model), 1, 8)
    ids = [kv.generate(m, PROMPTS, steering, generation={"max_new_tokens": 4}).token_ids for m in (model, padded)]
    assert ids[0] == ids[1]


def test_a_chat_that_is_not_to_be_rendered(idle: kv.Model) -> None:
    with pytest.raises(ValueError, match="With chat=False a prompt must be a string; this one is a list of messages"):
        kv.generate(idle, [[{"role": "user", "content": "fox"}]], chat=False)


# --- offset ---------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (
            "two tokens",
            (
                r"The offset 'two tokens' is \d+ tokens for this tokenizer, not one; choose another text or pass a"
                r" token id"
            ),
        ),
        ("", "The offset '' is 0 tokens"),
        (10_000, r"Offset id 10000 is outside the vocabulary of \d+ tokens"),
        (-1, "Offset id -1 is outside the vocabulary"),
    ],
)
def test_an_offset_that_is_not_one_token(call: Callable[..., Any], offset: Any, message: str, idle: kv.Model) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        call(idle, "fox", offset=offset)
    one_sentence(refused.value)


def test_steering_without_an_offset(idle: kv.Model, vectors: kv.KVVectors) -> None:
    with pytest.raises(ValueError, match=r"needs an offset token: the last slot is steered.*Pass offset='\\n'"):
        kv.generate(idle, "fox", kv.CacheSteering(vectors, 1, 1), offset=None)
    with pytest.raises(ValueError, match="A prompt of a single token needs an offset token"):
        kv.generate(idle, "a", chat=False, offset=None)


# --- layers, heads, slots, coefficients ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"layers": [4]}, "There is no layer 4; this model has layers 0 to 3"),
        ({"layers": [-1]}, "There is no layer -1; this model has layers 0 to 3"),
        ({"layers": [1, 2.5]}, r"There is no layer 2\.5; name layers by whole numbers, 0 to 3"),
        ({"layers": [True, False]}, "There is no layer True; name layers by whole numbers, 0 to 3"),
        ({"heads": [2]}, "There is no KV head 2; this model has KV heads 0 to 1"),
        ({"heads": [True]}, "There is no KV head True"),
        ({"ck": float("nan")}, "The coefficient ck is nan; it must be a finite number"),
        ({"cv": float("inf")}, "The coefficient cv is inf; it must be a finite number"),
        ({"cv": -float("inf")}, "The coefficient cv is -inf"),
        ({"slot": 1.5}, r"The slot is 1\.5; it must be a whole number"),
        ({"slot": True}, "The slot is True; it must be a whole number"),
    ],
)
def test_steering_that_cannot_be(chosen: dict[str, Any], message: str, vectors: kv.KVVectors) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        kv.CacheSteering(vectors, **{"ck": 1.0, "cv": 1.0, **chosen})
    one_sentence(refused.value)


@every_way
@pytest.mark.parametrize("slot", [99, -99])
def test_a_slot_out_of_range(call: Callable[..., Any], slot: int, idle: kv.Model, vectors: kv.KVVectors) -> None:
    n = len(idle.encode("fox"))
    with pytest.raises(
        ValueError, match=rf"Slot {slot} is out of range for row 0, which has {n} cached tokens; choose -{n} to {n - 1}"
    ) as refused:
        call(
            idle,
            "fox",
            **{"interventions" if call is EVERY_WAY[0] else "intervention": kv.CacheSteering(vectors, 1, 1, slot=slot)},
        )
    one_sentence(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda vectors: "steer", "'steer' is not an intervention; use kv.CacheSteering, kv.Nothing and the like"),
        (lambda vectors: kv.CoTPrompt, r"CoTPrompt is a class, not an intervention; call it: kv\.CoTPrompt\(\.\.\.\)"),
        (lambda vectors: vectors, r"Vectors are not an intervention; .* with kv\.CacheSteering\(vectors, \.\.\.\)"),
    ],
)
def test_what_is_no_intervention(given: Any, message: str, idle: kv.Model, vectors: kv.KVVectors) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    for call in (
        lambda method: kv.generate(idle, "fox", method),
        lambda method: kv.generate(idle, "fox", [method]),
        lambda method: kv.evaluate(idle, task, method, n=1),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            call(given(vectors))
        one_sentence(refused.value)


def test_a_task_s_name_is_no_task(idle: kv.Model) -> None:
    traces = kv.traces.Traces.from_rows([{"question": "2 + 3?", "style": "direct", "text": "5"}])
    for call in (
        lambda task: kv.evaluate(idle, task, [], n=1),
        lambda task: kv.ContrastiveSet.few_shot(task, idle.tokenizer, style="stepwise", n=1, shots=1),
        lambda task: kv.traces.with_traces(task, traces),
    ):
        with pytest.raises(
            ValueError, match=r"A task is asked for, not 'gsm8k'; get it with kv\.tasks\.get\('gsm8k'\)"
        ):
            call("gsm8k")
        with pytest.raises(
            ValueError, match=r"not something of type int; get one with kv\.tasks\.get or kv\.tasks\.from"
        ):
            call(5)


def test_pairs_of_what_is_no_pair(idle: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    with pytest.raises(ValueError, match="Both sides would answer in style 'direct'; name another one as against="):
        kv.ContrastiveSet.few_shot(task, idle.tokenizer, style="direct", n=2, shots=1)
    with pytest.raises(ValueError, match=r"A tokenizer is asked for, not a whole model; pass model\.tokenizer"):
        kv.ContrastiveSet.few_shot(task, idle, style="stepwise", n=2, shots=1)


def test_what_no_model_is_loaded_from(tokenizer: Any) -> None:
    for given in (None, 5, tokenizer):
        with pytest.raises(ValueError, match=r"loaded from something of type \w+; give a name, a folder, a file or a"):
            kv.load(given)
    for dtype in ("int8", torch.int8):
        with pytest.raises(ValueError, match="is not a dtype of weights; choose 'float32', 'bfloat16', 'float16' or"):
            kv.load("tiny", dtype=dtype)


def test_only_names_what_there_is(vectors: kv.KVVectors) -> None:
    with pytest.raises(ValueError, match="There is no layer 9; this model has layers 0 to 3"):
        vectors.only(layers=[0, 9])
    with pytest.raises(ValueError, match="There is no KV head -1"):
        vectors.only(heads=[-1])


def test_a_model_that_computes_nan_gives_no_vectors(tokenizer: Any) -> None:
    hf = build("llama")
    with torch.no_grad():
        hf.model.layers[1].self_attn.k_proj.weight[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match="The vectors' keys hold NaN or infinity; extract them again, in float32 or bfloat16"
    ):
        kv.extract(kv.load(hf, tokenizer), kv.ContrastiveSet.from_texts(["a"], ["b"]), progress=False)


# --- interventions and settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ([], "The list of interventions is empty; leave it out for the baseline"),
        (["steer"], r"'steer' is not an intervention; use kv\.CacheSteering, kv\.Nothing and the like"),
        ([kv.Nothing(), kv.Nothing()], r"Two interventions are called 'baseline'; tell them apart with name=\.\.\."),
        ([kv.ForcedPrefix("")], "A response prefill needs some text"),
    ],
)
def test_bad_interventions(interventions: Any, message: str, idle: kv.Model) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        kv.generate(idle, "fox", interventions)
    one_sentence(refused.value)


def test_several_interventions_where_one_is_taken(idle: kv.Model) -> None:
    for call in EVERY_WAY[1:]:
        with pytest.raises(ValueError, match="Only one intervention can be taken here, not 2; call once for each"):
            call(idle, "fox", intervention=[kv.Nothing(), kv.NoOffset()])


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"num_beams": 4}, "generation can't set num_beams; it takes .*max_new_tokens"),
        (
            {"cache_implementation": "static", "do_sampel": True},
            "generation can't set cache_implementation, do_sampel; it takes",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, not 0"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens must be a whole number of at least 1, not 2\.5"),
        ({"max_new_tokens": 500}, "need 5[0-9]{2} slots, but the context of"),
    ],
)
def test_bad_settings(generation: Any, message: str, idle: kv.Model) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        kv.generate(idle, "fox", generation=generation)
    one_sentence(refused.value)


def test_a_batch_size_below_one(idle: kv.Model) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        kv.generate(idle, "fox", batch_size=0)


def test_vectors_of_another_model(load_random: Any, idle: kv.Model) -> None:
    foreign = vectors_for(load_random("gpt2"))
    with pytest.raises(
        ValueError, match=r"These vectors are of a gpt2 .*, the model is a llama .*; extract vectors from this model"
    ) as refused:
        kv.generate(idle, "fox", [kv.Nothing(), kv.CacheSteering(foreign, 1, 1)])
    one_sentence(refused.value)


# --- writing ----------------------------------------------------------------------------------------------------

PAIRS = kv.ContrastiveSet.from_texts(["a"], ["b"])


@pytest.fixture(params=["vectors", "pairs"])
def saved(request: pytest.FixtureRequest, vectors: kv.KVVectors) -> Any:
    """Something with a `save`."""
    return vectors if request.param == "vectors" else PAIRS


def test_a_path_under_a_file(saved: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"^Cannot write .*: .*\. Choose a folder that you can write to\.$"):
        saved.save(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "x" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(
        "kvsteer_lab._util.files._new_file", denied
    )  # root may write anywhere, so permissions alone can't be tested
    with pytest.raises(
        OSError, match=r"^Cannot write .*: Permission denied\. Choose a folder that you can write to\.$"
    ):
        saved.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_a_folder(saved: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match=r"^Cannot write .*: Is a directory\. Nothing was changed there"):
        saved.save(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_file_survives_a_full_disk(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved.save(tmp_path / "out")
    old = path.read_bytes()

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kvsteer_lab.vectors.cards.save_file", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"^Cannot write .*out: No space left on device\. Nothing was changed there"):
        saved.save(path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_old_file_survives_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
def test_safetensors_running_out_of_space_says_so_too(tmp_path: Path) -> None:
    """A real limit on the size of files stands in for a full disk: safetensors raises an error of its own kind."""
    script = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        import torch
        import kvsteer_lab as kv
        from kvsteer_lab.vectors.kv import Card
        card = Card("m", "llama", "0", "torch.float32", "post_rope", 1, None, 1)
        path = Path(sys.argv[1])
        small, big = (kv.KVVectors(torch.ones(n, 2, 16), torch.ones(n, 2, 16), card) for n in (1, 2000))
        old = small.save(path).read_bytes()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            big.save(path)
        except OSError as error:
            print(error)
        assert path.read_bytes() == old and len(list(path.parent.iterdir())) == 1
        """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "v.safetensors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(
        r"Cannot write .*v\.safetensors: .*File too large.* Nothing was changed there; free some space", done.stdout
    ), done.stdout


# --- import -----------------------------------------------------------------------------------------------------


def test_importing_the_package_imports_no_torch_and_takes_less_than_a_third_of_a_second() -> None:
    script = (
        "import sys, time; start = time.process_time(); import kvsteer_lab; took = time.process_time() - start; "
        "heavy = {'torch', 'transformers', 'nnsight', 'pandas', 'matplotlib'} & set(sys.modules); print(took, *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    took, *heavy = done.stdout.split()
    assert not heavy and float(took) < 0.3


def test_every_public_name_is_there() -> None:
    for name in kv.__all__:
        assert getattr(kv, name) is not None, name
    assert set(kv.__all__) <= set(dir(kv))
    with pytest.raises(AttributeError, match="no attribute 'steer'"):
        kv.steer  # type: ignore[attr-defined]  # noqa: B018
