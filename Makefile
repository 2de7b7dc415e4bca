PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
TWO_WORKERS := -n 2 --dist loadgroup

.PHONY: tune test share ci test-all mutants smollm2 check lint types imports compiled bench soak

# Python compiles the modules that it imports, a small part of all, sooner than pip compiles all of them. uv takes a
# fifth of pip's time, and does not know where pip is told to look: for torch's CPU build, or at all.
.venv: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile "torch==2.13.0" uv --constraint constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev]" --constraint constraints.txt || \
		$(BIN)/pip install --quiet --no-compile --editable ".[dev]" --constraint constraints.txt
	touch .venv

tune: .venv
	$(BIN)/python tune.py --num-samples 20

test: .venv
	$(PYTEST) $(TWO_WORKERS) -m "not thorough"

# make share SHARE=2/6: the second of six shares of the thorough tests, and the smoke tests
share: .venv
	$(PYTEST) $(TWO_WORKERS) -m thorough --share $(SHARE)

# Both at once
ci: .venv
	$(PYTEST) $(TWO_WORKERS) --share $(SHARE)

# make test-all MINUTES=--write-minutes: also note what each file takes, by which the shares are balanced.
# Coverage slows tests down.
test-all: export TIME_CLASS_SLACK ?= 2
test-all: .venv
	$(PYTEST) $(TWO_WORKERS) --cov --cov-report=term $(MINUTES)

mutants: .venv
	$(BIN)/python -m tests.mutants $(WORD)

# A real model of 135 M parameters, into a cache; it prints where
smollm2: .venv
	$(BIN)/python -m tests.smollm2

check: lint types imports

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv
	$(BIN)/mypy

imports: .venv
	$(BIN)/lint-imports

# One small search: Python compiles what it imports, once, before many processes of tests would all do so at once.
compiled: .venv
	$(BIN)/python tune.py --num-samples 1 --strategies baseline --confirm-seeds 0 --train-examples 16 \
		--validation-examples 8 --test-examples 20 --epochs 1 --runs-dir "$$(mktemp -d)" > /dev/null

bench: .venv
	$(BIN)/python -m benchmarks

soak: .venv
	$(BIN)/python -m benchmarks.soak
