PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test test-long check peers bench bench-peers bench-quick bench-scoring bench-engines bench-streaming bench-gpu cuda-walk docs browser clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing pairsight into $(VENV) (about a minute)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing pairsight and its development tools into $(VENV) (about two minutes)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.user

setup: $(VENV)/.dev            ## make .venv with all development tools

demo: $(VENV)/.user            ## see a small vision-language model improve, two systems side by side
	$(BIN)/pairsight demo --out runs/demo

test: $(VENV)/.dev browser     ## every test that runs in CI
	$(BIN)/python -m pytest -m "not long"

test-long: $(VENV)/.dev browser ## every test
	$(BIN)/python -m pytest

check: $(VENV)/.dev            ## style, types, import layers, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/architecture

browser:                       ## the browser that page tests drive (Debian's, where we may install it)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	 { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	   apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	 echo "no chromium: the browser tests will say that they were skipped"

bench: $(VENV)/.dev            ## remake bench/RESULTS.md against the peers
	$(BIN)/python bench/run.py

bench-peers: $(VENV)/.dev      ## the same beside ms-swift, which needs an environment of its own
	@test -x .venv-swift/bin/swift || { $(PYTHON) -m venv .venv-swift && .venv-swift/bin/python -m pip install --quiet \
	 --disable-pip-version-check 'ms-swift==4.6.*' 'transformers==5.19.*' $$(grep '^torch==' constraints.txt); }
	$(BIN)/python bench/run.py --swift .venv-swift/bin/python

peers: $(VENV)/.dev            ## ms-swift and LLaMA-Factory, each in an environment of its own, train on what convert writes
	@test -x .venv-swift/bin/swift || { $(PYTHON) -m venv .venv-swift && .venv-swift/bin/python -m pip install --quiet \
	 --disable-pip-version-check 'ms-swift==4.6.*' 'transformers==5.19.*' $$(grep '^torch==' constraints.txt); }
	@test -f .venv-llamafactory/.made || { $(PYTHON) -m venv .venv-llamafactory && .venv-llamafactory/bin/python -m pip \
	 install --quiet --disable-pip-version-check 'llamafactory==0.9.5' 'transformers==5.6.0' 'trl==0.24.0' \
	 $$(grep '^torch==' constraints.txt) && .venv-llamafactory/bin/python tests/peers/without_sound.py \
	 && touch .venv-llamafactory/.made; }
	$(BIN)/python tests/peers/read_by_peers.py --ms-swift .venv-swift --llama-factory .venv-llamafactory

bench-quick: $(VENV)/.dev      ## every row once and smaller, in under ten minutes, printed only
	$(BIN)/python bench/run.py --quick

bench-engines: $(VENV)/.dev    ## remake bench/ENGINES.md: what the ledger and the engines cost
	$(BIN)/python bench/engines.py

bench-streaming: $(VENV)/.dev  ## remake bench/STREAMING.md: memory and time for 10⁴ to 10⁶ pairs of a finished run
	$(BIN)/python bench/streaming.py

bench-gpu: $(VENV)/.dev        ## on a machine with a GPU: remake bench/GPU.md, in at most 8 minutes
	$(BIN)/python bench/gpu.py

bench-scoring: $(VENV)/.dev    ## remake bench/SCORING.md: seconds and memory for 100,000 answers
	$(BIN)/python bench/scoring.py

cuda-walk: ## a training of three 7B models, at true size, on the tensors of a GPU that is not there (5 GB, minutes)
	@test -f .venv-cuda/.made || { $(PYTHON) -m venv .venv-cuda && PIP_CONSTRAINT= .venv-cuda/bin/python -m pip install \
	 --quiet --disable-pip-version-check 'torch===$(TORCH)' && grep -v '^torch==' constraints.txt > .venv-cuda/constraints.txt \
	 && PIP_CONSTRAINT= .venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check \
	 -c .venv-cuda/constraints.txt -e . && touch .venv-cuda/.made; }
	.venv-cuda/bin/python tests/cuda_walk.py

docs: $(VENV)/.dev             ## build the documentation into site/
	@$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site
