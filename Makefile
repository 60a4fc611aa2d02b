# Each target does its own set-up: a virtual environment in .venv, with the releases of constraints.txt.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
# Processes that run the tests; tests that must not be parted name their group.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: demo test test-slow clean

demo: $(VENV)/ready
	$(BIN)/python -m keepaug.demo --output demo

test: $(VENV)/ready
	$(PYTEST)

test-slow: $(VENV)/ready
	$(PYTEST) -m slow

$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,test,eval,examples]'
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
