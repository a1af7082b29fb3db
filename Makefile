# make demo   runs the main job from simulated raw frames to a certified master bias
# make test   runs the checks and the tests
# Both make .venv first, if it is not there. All other targets: make help

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
RUN_READY := $(VENV)/.ready-to-run
DEV_READY := $(VENV)/.ready-to-develop

.PHONY: help setup check test test-full docs demo bench

help:
	@echo 'make demo       simulate a night, build, verify and certify a master bias (3 minutes)'
	@echo 'make test       all checks and tests'
	@echo 'make test-full  the same with full-size frames'
	@echo 'make check      lint, format, types and walls only'
	@echo 'make bench      cpplug against its peers; results in benchmarks/results'
	@echo 'make docs       the documentation, in docs/_build/html'
	@echo 'make setup      .venv with everything for development'

# The first Python that is new enough and can make an environment.
$(PY):
	@for python in python3.13 python3.12 python3.11 python3; do \
	  if command -v $$python >/dev/null && \
	     $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then echo "making $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; exit 0; fi; done; \
	echo 'cpplug needs Python 3.11 or newer, with the venv module.' >&2; exit 1

$(RUN_READY): pyproject.toml constraints.txt | $(PY)
	@echo 'installing cpplug into $(VENV)'
	@$(PIP) install -e . -c constraints.txt
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt examples/cpplug-kast/pyproject.toml | $(PY)
	@echo 'installing cpplug and the development tools into $(VENV)'
	@$(PIP) install -e '.[dev,docs]' -c constraints.txt
	@$(PIP) install -e examples/cpplug-kast -c constraints.txt --no-deps
	@touch $(RUN_READY) $@

setup: $(DEV_READY)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: check
	$(PY) -m pytest -q -n 2 -m 'not full' tests examples/cpplug-kast/tests

test-full: check
	$(PY) -m pytest -q -n 2 tests examples/cpplug-kast/tests

docs: setup
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html

demo: $(RUN_READY)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash examples/demo.sh

bench: $(RUN_READY)
	@$(PIP) install -e '.[bench]' -c constraints.txt
	$(PY) benchmarks/combine.py
	$(PY) benchmarks/main_job.py
