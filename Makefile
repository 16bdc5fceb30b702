# One way to run things: this calls `kailab`, CI calls this.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAILAB := $(BIN)/kailab
LABS := $(patsubst labs/%/lab.yaml,%,$(wildcard labs/[0-9][0-9]_*/lab.yaml))
NUMBERS := $(foreach lab,$(LABS),$(shell expr $(firstword $(subst _, ,$(lab))) + 0))

.PHONY: help setup up down test lint unit cluster-test bench distclean
.DELETE_ON_ERROR:
help:
	@echo "make lab-N      set up what is missing, start lab N, check it   (N: $(NUMBERS))"
	@echo "make test       lint, unit tests, every lab's author gate on the real cluster"
	@echo "make bench      the figures that we promise, measured here"
	@echo "make down       remove the course cluster; make distclean the caches too"

# The environment is made again when the lock changes.
setup: $(VENV)/.ready
$(VENV)/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "kailab needs Python 3.11 or newer: install python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kailab needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up Python packages in $(VENV) (about 20 s the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lab-%: setup
	@$(KAILAB) lab $*

up down: setup
	@$(KAILAB) $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest -q

cluster-test: setup
	$(KAILAB) up
	$(BIN)/pytest -v -m cluster --durations=15

# Always on the images built here, whatever a registry may offer: that way is the harder one.
test: export KAILAB_IMAGES = offline
test: lint
	$(KAILAB) up
	$(BIN)/pytest -v -m "" --durations=15

bench: setup
	$(KAILAB) up
	$(BIN)/python -m tests.bench

distclean: setup
	$(KAILAB) distclean
	rm -rf $(VENV)
