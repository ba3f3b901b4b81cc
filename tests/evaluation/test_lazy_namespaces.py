"""Namespaces are there on first use, whatever else was imported before."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["outcomes.Outcome", "tuning.tune"])
def test_a_namespace_is_there_in_a_fresh_process(name):
    code = f"import kvsteer_lab as kv; kv.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
