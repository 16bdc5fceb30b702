# One way to run things: this calls `kailab`, CI calls this.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAILAB := $(BIN)/kailab
LABS := $(patsubst labs/%/lab.yaml,%,$(wildcard labs/[0-9][0-9]_*/lab.yaml))
NUMBERS := $(foreach lab,$(LABS),$(shell expr $(firstword $(subst _, ,$(lab))) + 0))

.PHONY: help setup notebooks tools locks up down jupyter assignments test lint unit browser cluster-test bench distclean
.DELETE_ON_ERROR:
help:
	@echo "make lab-N        set up what is missing, start lab N, check it   (N: $(NUMBERS))"
	@echo "make jupyter      the chapters in JupyterLab, with a lab's checks beside its text"
	@echo "make assignments  the chapters as nbgrader assignments, for those who teach"
	@echo "make test         lint, unit tests, every lab's author gate on the real cluster"
	@echo "make locks        the locked packages anew, after a change in pyproject.toml"
	@echo "make bench        the figures that we promise, measured here"
	@echo "make down         remove the course cluster; make distclean its images and caches too"

# An environment names its own place in every program: one that was moved, or copied with its checkout, would not run,
# or would act on the checkout that it came from.
ifneq ($(shell test -e $(VENV)/.lab && grep -q '^command = ' $(VENV)/pyvenv.cfg && \
         ! grep -qF ' $(CURDIR)/$(VENV)' $(VENV)/pyvenv.cfg && rm -rf $(VENV) && echo moved),)
$(info This checkout was moved or copied: its Python packages are set up anew.)
endif

# Three sets of packages, each within the next: what labs need, what notebooks need, what developers need.
# An environment is made again when its lock changes, and never shrinks.
setup: $(VENV)/.lab
notebooks: $(VENV)/.notebook
tools: $(VENV)/.dev
$(VENV)/.lab $(VENV)/.notebook $(VENV)/.dev: $(VENV)/.%: requirements/%.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "kailab needs Python 3.11 or newer: install python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kailab needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up Python packages in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements/dev.lock > $(VENV)/uv.lock
	@! $(BIN)/python -m pip config list | grep -q index && \
	  { $(PIP) --require-hashes -r $(VENV)/uv.lock && $(UV) --compile-bytecode --require-hashes -r $<; } 2>/dev/null || \
	  $(PIP) --require-hashes -r $<
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(patsubst %,$(VENV)/.%,$(SETS_WITHIN_$*) $*)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# In less than half of pip's time. Where pip has a package index of its own, or uv can't be had, pip does it all.
UV := UV_HTTP_RETRIES=0 $(BIN)/uv pip install --quiet --python $(BIN)/python
SETS_WITHIN_notebook := lab
SETS_WITHIN_dev := lab notebook

lab-%: setup
	@$(KAILAB) lab $*

# JUPYTER holds options for JupyterLab itself, such as --no-browser --port 8890.
jupyter: notebooks
	@$(BIN)/python -m course $(JUPYTER)

assignments: notebooks
	@$(BIN)/python -m course.assignments

up down: setup
	@$(KAILAB) $@

lint: tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: tools
	$(BIN)/pytest -q -n auto

# A Chromium for the tests of JupyterLab: the one that is there, else installed where we are root on Debian.
browser: tools
	@$(BIN)/python -m tests.browser

# One test at a time: they share a cluster, and several take its nodes away.
cluster-test: browser
	$(KAILAB) up
	$(BIN)/pytest -v -m cluster --durations=15

# Always on the images built here, whatever a registry may offer: that way is the harder one.
test: export KAILAB_IMAGES = offline
test: lint unit cluster-test

bench: tools
	$(KAILAB) up
	@status=0; for part in "bench" "bench_class accuracy --anew" "bench_class speed --anew"; do \
	  $(BIN)/python -m tests.$$part || status=1; done; exit $$status

# After a change of dependencies in pyproject.toml; what is locked already stays as it is.
locks: tools
	$(BIN)/uv pip compile $(COMPILE) --group dev --extra notebook pyproject.toml -o requirements/dev.lock
	$(BIN)/uv pip compile $(COMPILE) --group build --extra notebook pyproject.toml -c requirements/dev.lock -o requirements/notebook.lock
	$(BIN)/uv pip compile $(COMPILE) --group build pyproject.toml -c requirements/dev.lock -o requirements/lab.lock
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

distclean: setup
	$(KAILAB) distclean
	rm -rf $(VENV)
