# Everything that a person or CI runs. `make` alone lists the targets.
#   PYTHON=python3.12   choose the interpreter (3.11 or 3.12)
#   VENV=/some/folder   install there; inside the conda environment `medsam2-ft` it is that one
#   PYTEST_ARGS="-k io" passed on to pytest

VENV ?= $(if $(filter medsam2-ft,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX),.venv)
PYTEST_ARGS ?=
COVERAGE_FLOOR ?= 85

BIN := $(VENV)/bin
PY := $(BIN)/python
UV := $(BIN)/uv
STAMP := $(VENV)/.medsam2-ft-installed
# Where pip is told about a mirror, uv is told as well: it does not read pip's configuration.
UV_RUN = index="$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}"; \
	index="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$$index}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	$(UV) pip
UV_INSTALL = $(UV_RUN) install --quiet --python $(PY) --constraint constraints.txt
# One process per core, one thread each; a file's tests share a process and so their fixtures.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile
SOURCES := medsam2_ft tests $(wildcard train.py data_prep benchmarks slicer)

# albumentations asks the network for its newest version at import unless told not to.
export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.PHONY: help install demo check-demo test test-all test-cluster test-ui check format bench bench-transfer lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

install: $(STAMP)  ## create .venv with everything at the pinned versions

$(UV):
	@for python in "$(PYTHON)" python3.11 python3.12 python3; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' \
			2>/dev/null || continue; \
		echo "install: $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv "$(VENV)" || \
			{ echo "error: cannot create $(VENV): on Debian, apt-get install $$python-venv" >&2; exit 1; }; \
		exec $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv; \
	done; \
	echo "error: no Python 3.11 or 3.12 found: install one, or make install PYTHON=/path/to/it" >&2; \
	exit 1

# sam2 is source only: with build isolation it would download a second torch to build against.
$(STAMP): pyproject.toml constraints.txt | $(UV)
	@echo "install: torch and torchvision"
	@$(UV_INSTALL) setuptools torch torchvision
	@echo "install: sam2, medsam2-ft and its tools"
	@$(UV_INSTALL) --no-build-isolation-package sam2 --editable '.[dev]'
	@touch $@

# sam2's optional CUDA extension (it fills holes in masks) needs nvcc; the project does without.
$(STAMP) lock: export SAM2_BUILD_CUDA := 0

demo: install  ## fine-tune on a real chest CT in minutes and show the result
	@$(BIN)/medsam2-ft demo

check-demo: demo  ## hold the demo's figures against its promises and against Meta's own code
	@$(PY) -m pytest -m slow tests/e2e/test_demo.py

# Hypothesis' profile `ci` draws the same examples each time; `test-all` looks for new ones.
test: check  ## static checks and all tests but the slow ones: what CI runs
	@$(PYTEST) --hypothesis-profile ci --cov --cov-report= $(PYTEST_ARGS)
	@$(PY) -m coverage report --fail-under=$(COVERAGE_FLOOR)

test-all: check  ## the same with the slow tests and those on SLURM
	@$(PYTEST) -m "not gpu" --cov --cov-report= $(PYTEST_ARGS)
	@$(PY) -m coverage report --fail-under=$(COVERAGE_FLOOR)

test-cluster: install  ## requeue and cancel trainings on a SLURM of its own (root, slurm-wlm, munge)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "slurm and not slow" tests/slurm $(PYTEST_ARGS)

test-ui: install  ## drive the page in a browser (needs Debian's chromium)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m ui tests/serve $(PYTEST_ARGS)

check: install  ## ruff, mypy, import directions, spelling
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell $(SOURCES) configs docs checkpoints .ci Makefile *.md *.yml *.cff

format: install  ## rewrite the code the way `check` wants it
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

bench: install  ## measure speed and memory of this machine
	@mkdir -p benchmarks/results
	@$(PY) benchmarks/data_path.py --json benchmarks/results/data_path.json
	@$(PY) benchmarks/metrics.py --json benchmarks/results/metrics.json
	@$(PY) benchmarks/prepare.py --json benchmarks/results/prepare.json
	@$(PY) benchmarks/inference.py --json benchmarks/results/inference.json
	@$(PY) benchmarks/serve_load.py --json benchmarks/results/serve_load.json
	@$(PY) benchmarks/training.py --json benchmarks/results/training.json
	@$(PY) benchmarks/floor.py --json benchmarks/results/floor.json
	@$(PY) benchmarks/loss_curves.py --figure docs/images/loss_curves.png \
		--json benchmarks/results/loss_curves.json
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(PY) benchmarks/gpu.py --json benchmarks/results/gpu.json; fi
	@$(PY) benchmarks/summary.py

# An hour on two cores; every finished run is kept (runs/transfer) and not repeated.
bench-transfer: install  ## compare training recipes on patients never trained on
	@mkdir -p benchmarks/results
	@$(PY) benchmarks/transfer.py --json benchmarks/results/transfer.json

# UPGRADE=--upgrade takes the newest versions, without it only what pyproject.toml asks changes.
lock: install  ## write constraints.txt anew after a change of pyproject.toml
	@echo uv > $(VENV)/installer.in
	@$(UV_RUN) compile pyproject.toml $(VENV)/installer.in --quiet --extra dev $(UPGRADE) \
		--universal --python-version 3.11 --python $(PY) --no-build-isolation-package sam2 \
		--no-emit-index-url --no-emit-find-links --annotation-style line \
		--custom-compile-command "make lock" --output-file constraints.txt
	@rm $(VENV)/installer.in

clean:  ## remove what tools left behind; keeps .venv, runs and checkpoints
	@rm -rf build dist *.egg-info htmlcov .coverage .coverage.* .mypy_cache .ruff_cache \
		.pytest_cache .import_linter_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
