# `make demo` shows what gcpatch does; `make test` checks it. Both need only Python and this file.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

demo: .venv/gcpatch
	$(BIN)/gcpatch demo --out runs/demo

test: lint
	$(BIN)/python -m pytest -n 2

test-slow: .venv/tests
	$(BIN)/python -m pytest -m slow

lint: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/gcpatch: pyproject.toml .ci/requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	grep -v '^torch' .ci/requirements.txt > .venv/constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c .venv/constraints.txt -e .
	touch $@

.venv/tests: .venv/gcpatch
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -r .ci/requirements.txt
	touch $@

clean:
	rm -rf .venv build dist *.egg-info runs
