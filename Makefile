# `make demo` and `make test` install everything into .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

UPSTREAM := .venv-upstream

.PHONY: help install demo test test-upstream lint clean

help:
	@echo "make demo     train a small detector without WAU and with it, and compare (about 6 minutes)"
	@echo "make test     run the test suite (about 12 minutes)"
	@echo "make test-upstream  the same with the upstream OpenMMLab packages, in $(UPSTREAM)"
	@echo "make lint     check style and format"
	@echo "make install  install everything into $(VENV); demo, test and lint do it by themselves"
	@echo "make clean    remove $(VENV) and $(UPSTREAM); built wheels stay in the cache"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py requirements/tested.txt tools/install.py
	$(PYTHON) tools/install.py --venv $(VENV)
	@touch $@

demo: $(INSTALLED)
	$(RUN) tools/demo.py

test: $(INSTALLED)
	$(RUN) -m pytest

$(UPSTREAM)/.installed: pyproject.toml setup.py requirements/upstream.txt tools/install.py
	$(PYTHON) tools/install.py --stack upstream --venv $(UPSTREAM)
	@touch $@

test-upstream: $(UPSTREAM)/.installed
	$(UPSTREAM)/bin/python -m pytest

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf $(VENV) $(UPSTREAM)
