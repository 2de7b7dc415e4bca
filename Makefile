PYTHON ?= python3
BIN := .venv/bin

.PHONY: tune test test-faults check bench soak

.venv: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch==2.13.0" --constraint constraints.txt
	$(BIN)/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch .venv

tune: .venv
	$(BIN)/python tune.py --num-samples 20

test: .venv
	$(BIN)/python -m pytest

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
