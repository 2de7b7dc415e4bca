PYTHON ?= python3
BIN := .venv/bin

.PHONY: tune test quick-trainables quick-others test-faults check bench soak

.venv: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "torch==2.13.0" --constraint constraints.txt
	$(BIN)/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch .venv

tune: .venv
	$(BIN)/python tune.py --num-samples 20

test: .venv
	$(MAKE) --jobs=2 --output-sync quick-trainables quick-others
	$(BIN)/python -m pytest -m slow

quick-trainables: .venv
	$(BIN)/python -m pytest -m "not slow" tests/trainables

quick-others: .venv
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/trainables

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
