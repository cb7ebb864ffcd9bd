# `make help` lists what there is to run. Settings, as `make demo NAME=value` or from the environment:
#   PYTHON    the Python, 3.11 or newer, that .venv is made with
#   PIP_ARGS  further arguments for pip install; pip's own PIP_* variables work too
#   MODEL, IMAGE   what `make demo` asks, and about which photograph
#   ARGS      further options of `make page`, `make benchmark`, `make gpu` or `make drills`

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SERVING := $(VENV)/.serving-installed
DEVELOPMENT := $(VENV)/.development-installed
BENCHMARK := $(VENV)/.benchmark-installed
PAGE := $(VENV)/.page-installed
AUDIT := $(VENV)/.audit-installed

# An archive brings its own code to a worker, and the shell's PYTHONPATH would come before it.
unexport PYTHONPATH
# torchserve looks into JAVA_HOME before PATH, so beside a linked java JAVA_HOME must not be set.
WITH_JAVA = PATH="$(CURDIR)/$(BIN):$$PATH"; [ ! -e $(BIN)/java ] || unset JAVA_HOME;

.DEFAULT_GOAL := help
.PHONY: help demo serve page benchmark gpu drills equality unit test lint audit clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(SERVING)  ## Build, serve and ask a detector; without MODEL and IMAGE train one first [MODEL=hub/name] [IMAGE=file]
	@$(WITH_JAVA) $(BIN)/python scripts/demo.py \
	    $(if $(MODEL),--model "$(MODEL)") $(if $(IMAGE),--image "$(IMAGE)")

serve: $(SERVING)  ## Serve the archives in model_store/ in the foreground; Ctrl-C stops
	@$(WITH_JAVA) deploy/serve.sh

page: $(PAGE)  ## Show what is served in a browser; Ctrl-C stops [ARGS="--listen 127.0.0.1:7860"]
	@$(BIN)/python scripts/page.py $(ARGS)

benchmark: $(BENCHMARK)  ## Measure, beside LitServe and plain scripts [ARGS="--archive FILE.mar"]
	@$(WITH_JAVA) $(BIN)/python -m benchmarks \
	    --versus --json benchmark.json --plot benchmark.png $(ARGS)

# Whatever Python has a torch for the GPU: nothing is installed, neither Java nor TorchServe needed.
gpu:  ## Check and measure a CUDA device beside plain transformers, in 8 minutes [PYTHON=python3]
	@PYTHONPATH=handler:scripts $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) \
	    $(PYTHON)),$(PYTHON)) -m benchmarks.gpu $(ARGS)

drills: $(SERVING)  ## Do damage to a server under load, and say what came of it [ARGS="--short"]
	@$(WITH_JAVA) $(BIN)/python -m tests.drills $(ARGS)

equality: $(DEVELOPMENT)  ## Compare every type of encoder, full size, with transformers
	@$(BIN)/python -m pytest -s tests/full_size

unit: $(DEVELOPMENT)  ## Run the tests that need no server, on all cores [ARGS="-k jpeg"]
	@$(BIN)/python -m pytest -n auto --dist worksteal tests/unit $(ARGS)

test: unit  ## Run all tests: these, and those that start a real TorchServe
	@$(WITH_JAVA) $(BIN)/python -m pytest --durations 15 tests/serving

lint: $(DEVELOPMENT)  ## Run ruff, mypy and hadolint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/hadolint deploy/Containerfile

audit: $(AUDIT)  ## Look for known vulnerabilities in what is installed
	@$(BIN)/python scripts/audit.py

clean:  ## Remove .venv and caches; archives in model_store/ stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info logs

# Stamps: pip runs again when what it would install has changed, and only then.
$(SERVING): pyproject.toml constraints.txt scripts/find_java.py
	@command -v $(PYTHON) >/dev/null || \
	    { echo "$(PYTHON) is not installed: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, and $(PYTHON) is" \
	           "$$($(PYTHON) -V 2>&1): try make PYTHON=python3.11" >&2; exit 1; }
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e '.[train,faces,videos]'
	@$(BIN)/python scripts/find_java.py $(PIP_ARGS)
	@touch $@

$(DEVELOPMENT): $(SERVING)
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e '.[train,faces,videos,test,lint]'
	@touch $@

$(BENCHMARK): $(SERVING)
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e '.[train,int8,benchmark]'
	@touch $@

$(PAGE): $(SERVING)
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e '.[train,faces,videos,page]'
	@touch $@

$(AUDIT): $(SERVING)
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e '.[train,audit]'
	@touch $@
