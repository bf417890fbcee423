# Two commands do everything from a fresh clone, given Python 3.10+ and a shell:
#   make fit     set up and train the reference network on spoken digits
#   make test    set up and run every check
# While working: .venv/bin/python -m pytest, which leaves out the tests that are marked slow.
# Options of the trainer: make fit ARGS="--model.network.hidden [512] --trainer.max_epochs 20"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

RUN := $(VENV)/bin/python
# uv knows pip's --find-links folder under another name.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# A machine that brings its own torch wheel (offline, or CPU only) gets that one.
LOCAL_TORCH := $(wildcard $(PIP_FIND_LINKS)/torch-2.13.0*.whl)
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(RUN) \
	$(if $(LOCAL_TORCH),--constraint .ci/constraints.txt)

.PHONY: fit test lint check clean

fit: $(VENV)/.train
	$(RUN) -m lightning_modules.fit $(ARGS)

test: $(VENV)/.test lint check

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m mypy

check: $(VENV)/.test
	$(RUN) -m pytest -m "" $(ARGS)

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit(f"Python 3.10 or newer is \
	needed, {sys.executable} is {sys.version.split()[0]}; name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@touch $@

$(VENV)/.train: $(VENV)/.uv pyproject.toml
	$(INSTALL) --editable '.[train]'
	@touch $@

$(VENV)/.test: $(VENV)/.uv pyproject.toml
	$(INSTALL) --editable '.[all,dev]'
	@touch $@ $(VENV)/.train

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
