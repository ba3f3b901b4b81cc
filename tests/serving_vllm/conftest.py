"""One engine and one server for all tests of vLLM, in the environment that `make serve-test` makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from vllm_server import Server

HERE = Path(__file__).parent
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine of these tests lives in their own process
    "VLLM_LOGGING_LEVEL": "WARNING",
}
collect_ignore = [] if find_spec("vllm") else sorted(path.name for path in HERE.glob("test_*.py"))


def pytest_report_header() -> str:
    return "" if find_spec("vllm") else "tests/serving_vllm is left out: vLLM isn't installed (make serve-test)"


@pytest.fixture(scope="session")
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of SmolLM2 and what the library itself generates with them, from a process of its own."""
    if (given := os.environ.get("KVSTEER_SERVING_REFERENCE")) is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, str(HERE.parent / "serving_reference.py"), str(folder)], check=True, timeout=1200)
    return folder


@pytest.fixture(scope="session")
def reference(reference_folder: Path) -> dict[str, Any]:
    return dict(json.loads((reference_folder / "reference.json").read_text()))


@pytest.fixture(scope="session")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def server(reference_folder: Path, environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
        files = {name: reference_folder / f"{name}.safetensors" for name in ("stepwise", "half")}
        running = Server("smollm2-135m", files, tmp_path_factory.mktemp("server") / "log")
    yield running
    running.stop()
