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
