# make demo and make test work on a fresh machine with Python 3.11+, git and make.
# Both share one virtual environment, .venv; a second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demos test test-cupy thorough gradcheck reliability bench count clean

demo: .venv/demos.done
	$(BIN)/python -m demos main

demos: .venv/demos.done  ## every system of the lecture
	$(BIN)/python -m demos all

test: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# CuPy itself without a GPU: on host memory, its kernels compiled by g++ and, for three architectures,
# by NVRTC; then those with barriers again, from the last thread of a block to the first.
test-cupy: export TINYGRAD_RNN_REQUIRE = cupy
test-cupy: .venv/test.done .venv/cupy.done
	$(BIN)/python -m pytest tests/cuda --tier host
	TINYGRAD_RNN_THREADS=reversed \
	  $(BIN)/python -m pytest tests/cuda/test_kernels.py tests/cuda/test_host.py --tier host

thorough: .venv/test.done  ## the same laws on many more random cases: hours, not minutes
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest

gradcheck: .venv/demos.done
	$(BIN)/python -m tinygrad_rnn.gradcheck

reliability: .venv/test.done  ## the figures of tests/RELIABILITY.md: most of an hour
	$(BIN)/python -m tests.reliability

bench: .venv-bench/bench.done  ## beside its peers, into benchmarks/RESULTS.md: about an hour
	.venv-bench/bin/python -m benchmarks

count: .venv/test.done  ## how many lines a reader meets
	$(BIN)/python -m benchmarks.count

.venv/%.done: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tinygrad_rnn needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# Each peer by itself: one without a wheel for this machine is missing, and said to be skipped.
# PyTorch's own index has builds without CUDA.
PEERS := "torch --extra-index-url https://download.pytorch.org/whl/cpu" dynet38 jax autograd \
	mygrad micrograd tinygrad

.venv-bench/bench.done: setup.cfg Makefile
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	for peer in $(PEERS); do \
	  .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary \
	    $$peer || echo "$$peer cannot be installed: skipped"; \
	done
	touch $@

clean:
	rm -rf .venv .venv-bench runs build *.egg-info
