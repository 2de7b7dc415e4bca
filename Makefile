PYTHON ?= python3
BIN := .venv/bin

.PHONY: tune test quick-trainables quick-others slow-faults slow-others test-faults check bench soak

.venv: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch==2.13.0" --constraint constraints.txt
	$(BIN)/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch .venv

tune: .venv
	$(BIN)/python tune.py --num-samples 20

test: .venv
	$(MAKE) --jobs=2 --output-sync quick-trainables quick-others
	$(MAKE) --jobs=2 --output-sync slow-faults slow-others
	$(BIN)/python -m pytest -m slow tests/faults/mlflow  # it takes times: nothing runs beside it

quick-trainables: .venv
	$(BIN)/python -m pytest -m "not slow" tests/trainables

quick-others: .venv
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/trainables

slow-faults: .venv
	$(BIN)/python -m pytest -m slow tests/faults --ignore=tests/faults/mlflow

slow-others: .venv
	$(BIN)/python -m pytest -m slow --ignore=tests/faults

test-faults: .venv
	$(BIN)/python -m pytest tests/faults

check: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv
	$(BIN)/python -m benchmarks

soak: .venv
	$(BIN)/python -m benchmarks.soak
