PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
TWO_WORKERS := -n 2 --dist loadgroup

.PHONY: tune test smoke share test-all mutants check bench soak

.venv: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch==2.13.0" --constraint constraints.txt
	$(BIN)/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch .venv

tune: .venv
	$(BIN)/python tune.py --num-samples 20

test: .venv
	$(PYTEST) $(TWO_WORKERS) -m "not thorough"

smoke: .venv
	$(PYTEST) $(TWO_WORKERS) -m smoke

# make share SHARE=2/6: the second of six shares of the thorough tests. Status 5 means that no test was chosen.
share: .venv
	$(PYTEST) $(TWO_WORKERS) -m "not alone" --share $(SHARE) || [ $$? -eq 5 ]
	$(PYTEST) -m alone --share $(SHARE) || [ $$? -eq 5 ]

# make test-all MINUTES=--write-minutes: also note what each file takes, by which the shares are balanced.
# Coverage slows tests down.
test-all: export TIME_CLASS_SLACK ?= 2
test-all: .venv
	$(PYTEST) $(TWO_WORKERS) -m "not alone" --cov --cov-report= $(MINUTES)
	$(PYTEST) -m alone --cov --cov-append --cov-report=term $(MINUTES) || [ $$? -eq 5 ]

mutants: .venv
	$(BIN)/python -m tests.mutants $(WORD)

check: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv
	$(BIN)/python -m benchmarks

soak: .venv
	$(BIN)/python -m benchmarks.soak
