# `make demo` and `make test` install everything into .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

UPSTREAM := .venv-upstream
# Processes that run the tests.
WORKERS ?= 2
TEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test test-upstream gpu-check lint docs clean

help:
	@echo "make demo     train a small detector without WAU and with it, and compare (about 7 minutes)"
	@echo "make test     run the test suite (about 8 minutes; WORKERS=N for more than 2 processes)"
	@echo "make test-upstream  the same with the upstream OpenMMLab packages, in $(UPSTREAM)"
	@echo "make gpu-check  what WAU does on the GPU of this machine (up to 20 minutes; installs nothing)"
	@echo "make lint     check style, format and types"
	@echo "make docs     build the site into docs/_build/html; a link that leads nowhere is an error"
	@echo "make install  install everything into $(VENV); demo, test, lint and docs do it by themselves"
	@echo "make clean    remove $(VENV), $(UPSTREAM) and the site; built wheels stay in the cache"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py requirements/tested.txt tools/install.py
	$(PYTHON) tools/install.py --venv $(VENV)
	@touch $@

demo: $(INSTALLED)
	$(RUN) tools/demo.py

test: $(INSTALLED)
	$(RUN) $(TEST)

$(UPSTREAM)/.installed: pyproject.toml setup.py requirements/upstream.txt tools/install.py
	$(PYTHON) tools/install.py --stack upstream --venv $(UPSTREAM)
	@touch $@

test-upstream: $(UPSTREAM)/.installed
	$(UPSTREAM)/bin/python $(TEST)

# With the Python of .venv where there is one: on a machine without internet nothing can be installed.
gpu-check:
	PYTHONPATH=. $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) tools/gpu_check.py

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(INSTALLED)
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -c docs . docs/_build/html
	@echo "The site is in docs/_build/html/index.html"

clean:
	rm -rf $(VENV) $(UPSTREAM) docs/_build
