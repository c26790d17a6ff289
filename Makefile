# make demo | test | lint | bench | clean      needs Python 3.11 or later and the Python package index, nothing else
#
# make bench has an environment of its own, with the peers that the index has (torch alone is large);
# BENCH="--cells 'decode*' --quick" passes options, python -m benchmarks --help lists them

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_INSTALLED := $(BENCH_VENV)/.installed
BENCH ?=

.PHONY: demo test lint bench clean

demo: $(INSTALLED)
	@$(VENV)/bin/python examples/demo.py

test: $(INSTALLED)
	@$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal

lint: $(INSTALLED)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy -p moa

bench: $(BENCH_INSTALLED)
	@$(BENCH_VENV)/bin/python -m benchmarks $(BENCH)

# what a clone does not have
clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(BENCH_INSTALLED): pyproject.toml
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --disable-pip-version-check --editable '.[bench]'
	@touch $@
