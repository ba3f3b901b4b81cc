"""Bodies of requests, good and bad, from a seed: what servers are attacked with."""

from __future__ import annotations

import json
import random
from typing import Any

GOOD: dict[str, Any] = {"vectors": "stepwise", "ck": 0, "cv": 2}
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        0.5,
        1e9,
        -1e9,
        10**400,
        2**63,
        float("nan"),
        float("inf"),
        "",
        "4",
        "nan",
        "stepwise",
    ),
    *("../../etc/passwd", "/etc/passwd", "a" * 500, "\x00", "\ud800", "\u202e", "'; DROP TABLE", [], [0], [1, 1], [-1]),
    *([29], [30], [1.5], ["1"], [True], list(range(3000)), {}, {"a": {"b": [{}]}}, [[[[1]]]], [None], {"$ref": "#"}),
)
_FIELDS = (
    *("vectors", "ck", "cv", "layers", "slot", "offset", "offset_id", "heads", "path", "tensor", "keys", "__class__"),
    *("Vectors", "cv ", "\u200bcv", "", "a" * 300, "model_config", "name", "dtype"),
)
_TOP = (
    *("use_beam_search", "prompt_embeds", "prompt_logprobs", "kv_transfer_params", "vllm_xargs", "seed", "temperature"),
    *("n", "max_tokens", "stream", "echo", "logprobs", "cache_salt", "extra_body", "min_tokens", "stop", "logit_bias"),
)


def bodies(seed: int, n: int, top: dict[str, Any]) -> list[bytes]:
    """Bodies made of a valid one by one to three mistakes; some are no JSON at all, and some are valid.

    Args:
        seed: of the mistakes.
        n: how many.
        top: the valid request without `kv_steering`.
    """
    chance, made = random.Random(seed), []
    for _ in range(n):
        asked: Any = dict(GOOD)
        body: dict[str, Any] = dict(top)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            match chance.randrange(6):
                case 0 | 1:
                    asked = (
                        {**asked, chance.choice(_FIELDS): chance.choice(_VALUES)} if isinstance(asked, dict) else asked
                    )
                case 2:
                    asked = chance.choice(_VALUES)
                case 3:
                    body[chance.choice(_TOP)] = chance.choice(_VALUES)
                case 4 if isinstance(asked, dict) and asked:
                    asked = {k: v for k, v in asked.items() if k != chance.choice(list(asked))}
                case _:
                    body["vllm_xargs"] = {"kv_steering": json.dumps(asked)}
        text = json.dumps({**body, "kv_steering": asked}).encode()
        match chance.randrange(12):
            case 0:
                text = text[: chance.randrange(len(text))]
            case 1:
                at = chance.randrange(len(text))
                text = text[:at] + bytes(chance.randrange(256) for _ in range(3)) + text[at + 1 :]
            case 2:
                text = text.replace(b"kv_steering", b"kv\\u005fsteering")
            case 3:
                text = b'{"kv_steering": ' + b"[" * 5000 + text
        made.append(text)
    return made


def odd_bodies(top: dict[str, Any]) -> list[bytes]:
    """Bodies that readers of JSON understand differently, names that are all but right, and fields that vLLM has
    beside a prompt: each with a `kv_steering`, or something like it.

    Args:
        top: the valid request without `kv_steering`.
    """
    good = json.dumps(GOOD)
    whole = json.dumps({**top, "kv_steering": GOOD})
    made = [
        b"\xef\xbb\xbf" + whole.encode(),  # a byte-order mark
        b"\xff\xfe" + whole.encode("utf-16-le"),
        whole.encode("utf-16-le") + b"\0",  # half a character more
        whole.encode("utf-7"),
        whole.encode().replace(b"kv_steering", b"kv\xc1\x9fsteering"),  # an overlong underscore
        whole.encode().replace(b"stepwise", b"step\xffwise"),
        *(whole.encode() + tail for tail in (b"\0", b" ", b"\n\n", b",", b"}", whole.encode(), b"//end", b"\x1a")),
        whole.replace(":", " :\t\r\n ").encode(),
        json.dumps([json.loads(whole)]).encode(),
        json.dumps(whole).encode(),
        whole[:-1].encode() + b',"kv_steering":null}',  # the same name twice: readers take the first or the last
        b'{"kv_steering":null,' + whole[1:].encode(),
        b'{"kv_steering":{"vectors":"stepwise","cv":99},' + whole[1:].encode(),
        whole.replace('"cv": 2', '"cv": 2, "cv": 3').encode(),
        whole.replace("stepwise", "step\u0000wise").encode(),
        b"{" * 200 + whole.encode(),
        whole.encode().replace(b'"kv_steering": {', b'"kv_steering": ' + b'{"a":' * 150 + b"{"),
    ]
    for digits in (
        "1e400",
        "-1e400",
        "1e-400",
        "1E2",
        "-0",
        "-0.0",
        "02",
        "+2",
        ".5",
        "2.",
        "0x2",
        "Infinity",
        "1" * 5000,
    ):
        made.append(whole.replace('"cv": 2', f'"cv": {digits}').encode())
    for layers in (
        "[1.0]",
        "[1e0]",
        "[-0]",
        "[true]",
        "[null]",
        "[[1]]",
        "{}",
        '"1,2"',
        '{"0": 1}',
        "[1e400]",
        "[2, 1, 2]",
    ):
        made.append(whole.replace('"cv": 2', f'"cv": 2, "layers": {layers}').encode())
    for vectors in (
        "Stepwise",
        "stepwise ",
        "stepwise\n",
        " stepwise",
        "step wise",
        "ｓtepwise",
        "stepwise/../stepwise",
    ):
        made.append(json.dumps({**top, "kv_steering": {**GOOD, "vectors": vectors}}).encode())
    for name in (
        "kv-steering",
        "kvSteering",
        "KV_STEERING",
        "kv_steering ",
        "kv.steering",
        "kvsteering",
        "kv_stееring",
    ):
        made.append(json.dumps({**top, name: GOOD}).encode())
    for field in ("kv_steering", "vllm_xargs", "extra_args", "extra_body", "sampling_params", "metadata", "stop", "n"):
        for value in (good, [GOOD], {"kv_steering": good}, {"kv_steering": None}, [["kv_steering", GOOD]], 3):
            made.append(json.dumps({**top, "kv_steering": GOOD, field: value}).encode())
    beside: dict[str, tuple[Any, ...]] = {
        "structured_outputs": ({"choice": ["a"]}, {"regex": "("}, {"choice": []}, {"json": "{"}, {"grammar": 3}),
        "response_format": ({"type": "json_object"}, {"type": "x"}, {"type": "json_schema"}, []),
        "logit_bias": ({"5": 100}, {"-1": 1}, {"10000000": 1}, {"a": 1}),
        "stop_token_ids": ([10**12], [-1], ["a"], 3),
        "bad_words": ([""], ["\ud800"], "a"),
        "allowed_token_ids": ([], [5], [10**12], [-1]),
        "repetition_penalty": (0, -1, 1.5, float("nan"), 1e30),
        "temperature": (1e-30, 1e30, -1, float("nan")),
        "top_p": (0, 1e-9, 2),
        "top_k": (-2, 1, 10**12),
        "min_p": (-1, 2, 1),
        "n": (0, -1, 1.5, 10**9),
        "seed": (-1, 2**70, "a"),
        "min_tokens": (5, -1),
        "max_tokens": (0, -1, 10**9, 1.5),
        "echo": (True,),
        "logprobs": (0, 1, -1, 10**9, True),
        "truncate_prompt_tokens": (-1, 0, 1, 10**9),
        "priority": (1, -1, 2**70),
        "request_id": ("", "a" * 5000, "\n", "kvsteer-self-test-x", 3),
        "cache_salt": ("", "a", 3),
        "prompt": ([], [[]], [-1], [10**9], [1, "a"], [[1], [2]], ["a", "b"], [1.5], {}, ""),
        "messages": ([], [{}], [{"role": "x"}], [{"role": "user", "content": {"a": 1}}], "x", [[]]),
        "stream_options": ({"include_usage": True}, {"x": 1}, 3),
        "add_generation_prompt": (False, 3),
        "continue_final_message": (True,),
        "chat_template": ("{{ messages", "{{ 1 / 0 }}"),
        "documents": ([{}], 3),
        "tools": ([{}], [{"type": "function", "function": {"name": "f"}}], 3),
    }
    made += [json.dumps({**top, "kv_steering": GOOD, k: v}).encode() for k, vs in beside.items() for v in vs]
    return made
