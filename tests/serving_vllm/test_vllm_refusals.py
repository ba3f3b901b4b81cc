"""What the plugin refuses at start, without an engine: configurations, a missing middleware, an edit without effect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvsteer_lab.serving import vllm_plugin as plugin
from kvsteer_lab.serving.catalogue import VARIABLE, Catalogue


@pytest.fixture(autouse=True)
def served(reference_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    files = {"stepwise": reference_folder / "stepwise.safetensors"}
    monkeypatch.setenv(VARIABLE, Catalogue.load(files).to_variable())
    plugin.catalogue.cache_clear()
    yield
    plugin.catalogue.cache_clear()


def config(**changes: Any) -> SimpleNamespace:
    home = plugin.__name__
    model = SimpleNamespace(
        use_mla=False,
        is_hybrid=False,
        is_attention_free=False,
        uses_mrope=False,
        runner_type="generate",
        enable_sleep_mode=False,
        logits_processors=[f"{home}:SteeringParameters"],
        get_total_num_hidden_layers=lambda: changes.get("layers", 30),
        get_total_num_kv_heads=lambda: 3,
        get_head_size=lambda: 64,
        get_vocab_size=lambda: changes.get("vocabulary", 49152),
    )
    whole = SimpleNamespace(
        model_config=model,
        cache_config=SimpleNamespace(cache_dtype="auto"),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        kv_transfer_config=SimpleNamespace(kv_connector="SteeringConnector"),
        scheduler_config=SimpleNamespace(scheduler_cls=f"{home}.SteeringScheduler", enable_chunked_prefill=True),
        speculative_config=None,
        lora_config=None,
    )
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            setattr(getattr(whole, part), field, value)
        elif hasattr(whole, part):
            setattr(whole, part, value)
    return whole


def test_a_plain_configuration_is_served() -> None:
    plugin.refuse_config(config())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_config__use_mla": True}, "MLA"),
        ({"model_config__is_hybrid": True}, "hybrid"),
        ({"model_config__uses_mrope": True}, "several dimensions"),
        ({"model_config__runner_type": "pooling"}, "generate nothing"),
        ({"model_config__enable_sleep_mode": True}, "sleep mode"),
        ({"model_config__logits_processors": None}, "SteeringParameters"),
        ({"cache_config__cache_dtype": "fp8_e4m3"}, "quantised cache"),
        ({"speculative_config": object()}, "speculative"),
        ({"lora_config": object()}, "LoRA"),
        ({"parallel_config__pipeline_parallel_size": 2}, "pipeline"),
        ({"parallel_config__decode_context_parallel_size": 2}, "context parallelism"),
        ({"kv_transfer_config": None}, "KV connector"),
        ({"kv_transfer_config__kv_connector": "NixlConnector"}, "KV connector"),
        ({"scheduler_config__scheduler_cls": None}, "another scheduler"),
        ({"scheduler_config__enable_chunked_prefill": False}, "one piece"),
        ({"layers": 12}, "30 layers"),
        ({"vocabulary": 100}, "offset token"),
    ],
    ids=str,
)
def test_what_cannot_be_steered_is_refused_at_start(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plugin.refuse_config(config(**changes))


def test_without_the_middleware_no_request_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import SamplingParams

    monkeypatch.setattr(plugin.SteeringMiddleware, "stands", False)
    with pytest.raises(ValueError, match="without kvsteer's middleware"):
        plugin.SteeringParameters.validate_params(SamplingParams())
    plugin.SteeringMiddleware(lambda *asgi: None)  # type: ignore[arg-type, return-value]
    plugin.SteeringParameters.validate_params(SamplingParams())


class Engine:
    """Answers with log-probabilities that steering moves by `moved`."""

    def __init__(self, moved: float) -> None:
        self.moved = moved

    async def generate(self, prompt: str, params: Any, identity: str) -> Any:
        steered = plugin.asked_of(params)
        assert steered is not None
        moved = self.moved if steered.adds else 0.0
        logprobs = {i: SimpleNamespace(logprob=-1.0 - i + moved * i) for i in range(5)}
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[logprobs])])


def test_a_server_whose_edit_has_no_effect_does_not_start() -> None:
    asyncio.run(plugin.self_test(Engine(0.1)))
    with pytest.raises(RuntimeError, match="would answer unsteered"):
        asyncio.run(plugin.self_test(Engine(0.0)))
    for moved, expected in ((0.1, "lifespan.startup.complete"), (0.0, "lifespan.startup.failed")):
        sent: list[str] = []

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "lifespan.startup.complete"})

        async def send(message: Any, sent: list[str] = sent) -> None:
            sent.append(message["type"])

        app = SimpleNamespace(state=SimpleNamespace(engine_client=Engine(moved)))
        asyncio.run(plugin.SteeringMiddleware(inner)({"type": "lifespan", "app": app}, None, send))  # type: ignore[arg-type]
        assert sent == [expected]


@pytest.mark.parametrize("started", [False, True])
def test_a_request_ends_with_the_engine(started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is ended before it has said that it aborts a request leaves it waiting for ever."""
    monkeypatch.setattr(plugin, "STOP_PATIENCE", 0.01)
    sent: list[Any] = []
    cancelled: list[bool] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        engine.is_running = False
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def send(message: Any) -> None:
        sent.append(message)

    engine = SimpleNamespace(is_running=True)
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    scope["app"] = SimpleNamespace(state=SimpleNamespace(engine_client=engine))  # type: ignore[assignment]
    asyncio.run(asyncio.wait_for(plugin.SteeringMiddleware(inner)(scope, None, send), 60))  # type: ignore[arg-type]
    assert cancelled == [True] and sent[0]["status"] == (200 if started else 503)
    assert len(sent) == (1 if started else 2)  # nothing says that a stream has ended well
