# Commands for people, hooks and CI. `make run` and `make test` need only Python 3.11 to 3.13, make, git and a network.
PYTHON ?= python3
PORT ?= 5000
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
CODE := src pipelines tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help setup run ui docs test test-slow test-fast lint format lock bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## create .venv from requirements.lock, with every package checked by its hash

# uv takes a tenth of pip's time; pip installs it, pinned and hashed by the same lock file. Packages are compiled now, on
# every core: if PYTHONDONTWRITEBYTECODE is set, each process would compile TensorFlow again, 5 s of CPU time.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit("Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is %d.%d; say make $(MAKECMDGOALS) PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	awk '/^uv==/{on=1} on{print} on&&!/\\$$/{exit}' requirements.lock > $(VENV)/uv.lock
	$(VENV)/bin/python -m pip install --quiet --require-hashes --no-deps -r $(VENV)/uv.lock
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@

# The scripts of an environment contain its path, so it is made again if the repository was moved or copied.
$(shell [ "$$(cat $(VENV)/.ready 2>/dev/null)" = "$(CURDIR)" ] || rm -f $(VENV)/.ready)

run: setup  ## set up, run dvc repro up to a promoted model, print a summary
	@start=$$(date +%s) && dvc repro && echo && darkroom report --since $$start && \
	    echo "           . $(VENV)/bin/activate     first, so that the shell finds these commands"

ui: setup  ## show the runs in MLflow's UI (PORT=5000, or the next free one)
	darkroom ui --port $(PORT)

docs: setup  ## build the pages of docs/ into site/, and check their links
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet && echo "open site/index.html"

# Three processes on two cores, because tests wait for a fifth of their time, for a disk, a process or a deadline.
test: setup lint  ## run every check, and every test except those of test-slow; print the coverage
	python -m slipcover -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m "not slow"
	@python -c 'import json; print("coverage:", json.load(open(".coverage.json"))["summary"]["percent_covered_display"], "%")'

test-slow: setup  ## run the tests that take minutes: kills at random moments
	python -m pytest -m slow

test-fast: setup  ## run the tests that load neither TensorFlow nor MLflow, under 40 s
	python -m pytest -m "not heavy"

lint: setup  ## run ruff and mypy --strict
	ruff check $(CODE)
	ruff format --check $(CODE)
	mypy

format: setup  ## apply ruff's fixes and formatting
	ruff check --fix $(CODE)
	ruff format $(CODE)

COMPILE = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-annotate --quiet --custom-compile-command "make lock"

lock: setup  ## write requirements.lock and requirements-s3.lock from pyproject.toml
	$(COMPILE) --extra dev --output-file requirements.lock
	$(COMPILE) --extra s3 --constraint requirements.lock --output-file requirements-s3.lock \
	    $$(awk -F '[=[]' '/^[a-z0-9]/ {print "--no-emit-package", $$1}' requirements.lock)

# modules of others, and those that need photographs, an environment of peers or a GPU
NOT_ALONE = record served sides real_answers backbones first_prediction init resize http_layer precision throughput gpu

bench: setup  ## run every benchmark that needs no arguments and write benchmarks/results
	set -e; for script in $(filter-out $(NOT_ALONE:%=benchmarks/%.py),$(wildcard benchmarks/[a-z]*.py)); do python -m benchmarks.$$(basename $$script .py) --save; done

clean:  ## remove the environment and caches; keep data, models and runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage.json build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
