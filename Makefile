# make run: environment, installation, the main job.  make test: environment, installation, the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow check bench gpu-bench gpu-bench-tasks clean install

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 13)) and 'Python 3.11 or 3.12 is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.installed

run: install
	$(BIN)/python -m benchmark run --method mcr,random --task all

# tests are small: threads that wait for each other only slow them down, most of all on a busy machine
test test-slow: export OMP_NUM_THREADS = 1

test: install
	$(BIN)/python -m pytest -q

test-slow: install
	$(BIN)/python -m pytest -q -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-enable

# every measurement that needs a GPU; resumes; writes leaderboards/measured/<gpu>.{json,md,svg}; --dry-run lists it anywhere
gpu-bench: install
	$(BIN)/python -m benchmark efficiency --programme gpu

# one paper-size run of every task family on the phantom at 224: time and memory, not scores; dense heads take 10,000 steps each
gpu-bench-tasks: install
	$(BIN)/python -m benchmark run --method clip --task all --preset paper --labels 1 --data phantom:train=2000,size=224 \
		--set image_weights=none --set text_weights=none --set steps=50 --set batch_size=64 --precision bf16 --out runs/gpu-bench

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
