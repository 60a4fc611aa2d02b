# Each target does its own set-up: a virtual environment in .venv, with the releases of constraints.txt.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
# Processes that run the tests; tests that must not be parted name their group.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: demo lint types test test-slow test-lowest docs bench clean

demo: $(VENV)/ready
	$(BIN)/python -m keepaug.demo --output demo

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/ready
	$(BIN)/mypy

test: $(VENV)/ready
	$(PYTEST)

test-slow: $(VENV)/ready
	$(PYTEST) -m slow

# The oldest releases that are allowed, in an environment of their own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[test,eval,study]'
	$(VENV)-lowest/bin/python -m pytest -n $(WORKERS) --dist loadgroup

# Static pages in site/, without network.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What a training step costs here, in a few minutes.
bench: $(VENV)/ready
	$(BIN)/python benchmarks/step_cost.py

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[test,eval,study,examples,dev]'
	touch $@

$(VENV)/docs: $(VENV)/ready
	$(INSTALL) '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest demo build dist site *.egg-info
