# Two commands need nothing but git, make and Python >= 3.11: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
# Optional dependencies of pyproject.toml besides those of the tests, such as EXTRAS=cuda or EXTRAS=cuda,wandb.
EXTRAS ?=
# LOCKED=1 installs the versions of constraints/, which say what pip installed on Python 3.11, 3.12 and 3.13.
LOCKED ?=
COMMA := ,
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed$(addprefix -,$(EXTRAS))$(if $(LOCKED),-locked)
CONSTRAINTS = $(if $(LOCKED),--constraint constraints/$(shell $(PYTHON) -c 'import sys; print("py%d%d.txt" % sys.version_info[:2])'))

.PHONY: train test test-all light promises docs lint clean

train: $(INSTALLED)
	$(BIN)/python experiments/celebahq_mvae.py $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

# Besides: whole experiments, kills and hosts at full counts, the wheel in an environment of its own.
test-all: test
	$(BIN)/python -m pytest -m slow $(ARGS)

# What tells soon whether a version of Python or JAX will do: make light PYTHON=python3.13 VENV=.venv-3.13 LOCKED=1
light: $(INSTALLED)
	$(BIN)/python -m pytest tests/losses tests/test_gaussian.py tests/test_fields.py tests/experiment/test_flags.py tests/train/test_step.py tests/train/test_workdir.py tests/test_package.py $(ARGS)

# What README promises, measured at full counts; `make test-all` tries each of them a few times.
promises: $(INSTALLED)
	$(BIN)/python -m pytest -m promise --promises=full tests/promises $(ARGS)

# The documentation, with its notebooks run, in build/docs. Warnings and broken links are errors; once the packages are
# installed, no network is needed.
docs: $(VENV)/documents
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -b html docs build/docs $(ARGS)
	$(BIN)/python tools/check_links.py build/docs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mvae_jax needs Python >= 3.11, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@echo 'The packages are installed into $(VENV): once, and without a word until all are there, which may take minutes.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(CONSTRAINTS) --editable '.[test$(addprefix $(COMMA),$(EXTRAS))]'
	touch $@

$(VENV)/documents: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
