# The two that matter: `make demo` and `make test`. Both make .venv first; nothing else needs to be installed.
PYTHON ?= python3
WORKERS ?= 2
# `make venv WHEELHOUSE=wheelhouse` installs from that folder and asks no index.
WHEELHOUSE ?=
# uv is quicker, pip honours the user's mirror settings: `make UV= venv` takes pip although uv is there.
UV ?= $(shell command -v uv 2>/dev/null)
# uv would fetch a Python of its own when it dislikes the one that it is given.
export UV_PYTHON_DOWNLOADS := never

BIN := .venv/bin
STAMP := .venv/.installed
FROM := $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE))
INSTALL = $(if $(UV),"$(UV)" pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
# Whatever indexes the user has set must not get into the lock.
CLEAN_ENV := env $(foreach name,UV_INDEX UV_INDEX_URL UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS,-u $(name))
LOCK_UV = $(or $(UV),$(wildcard $(BIN)/uv))

.DEFAULT_GOAL := venv
.PHONY: venv demo test lint style lab lock wheelhouse

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo 'make: PYTHON=$(PYTHON) is '"$$($(PYTHON) --version 2>&1 | head -n 1)"'; right would be Python 3.11, 3.12 or 3.13' >&2; \
	  echo '  next: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo 'make: $(PYTHON) cannot make a virtual environment' >&2; \
	  echo '  next: install its venv module (on Debian and Ubuntu the package python3-venv), then make again' >&2; exit 1; }
	@echo 'installing what requirements.lock names into .venv (about a minute with pip, seconds with uv)'
	@$(INSTALL) $(FROM) --require-hashes -r requirements.lock
	@$(INSTALL) $(FROM) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/runbook demo

test: $(STAMP)
# the longest files first, so that no worker is left alone with them at the end
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/end_to_end tests/browser tests $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

style: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

lab: $(STAMP)
	$(BIN)/runbook lab

# Keeps what the lock has where it still fits; `make lock ARGS=--upgrade` takes the newest.
lock:
	@test -n '$(LOCK_UV)' || { echo 'make: the lock is compiled by uv, which is not here' >&2; echo '  next: pip install uv' >&2; exit 1; }
	$(CLEAN_ENV) "$(LOCK_UV)" pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
	  --custom-compile-command 'make lock' $(ARGS) --output-file requirements.lock pyproject.toml

# For servers without a network: carry the whole folder there, then `make venv WHEELHOUSE=wheelhouse`.
# Wheels for this machine's system and Python; make it on a machine like the one it is for.
wheelhouse: $(STAMP)
	$(BIN)/python -m pip download --disable-pip-version-check --only-binary :all: --require-hashes -r requirements.lock --dest wheelhouse
