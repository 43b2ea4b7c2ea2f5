# Every target sets up what it needs: one virtual environment, pinned.

PYTHON ?= python3
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test test-long lint bless speed soak clean

quickstart: $(INSTALLED)
	$(BIN)/bench run benchmarks/quickstart.toml
	@echo
	@echo "That was benchmarks/quickstart.toml; its results are in .bench, so a second run takes a moment only."
	@echo "Try next:"
	@echo "  $(BIN)/bench plan benchmarks/quickstart.toml      what is cached, what would run, and why"
	@echo "  $(BIN)/bench list                                 attacks, defenses, models, datasets, metrics"
	@echo "  $(BIN)/bench show nad                             parameters, defaults, where they come from"
	@echo "  $(BIN)/bench report benchmarks/quickstart.toml --format markdown"
	@echo "  edit a copy of the grid: what you leave as it is will not be computed again"

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "long and not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

speed: $(INSTALLED)
	$(BIN)/python benchmarks/speed/suite.py
	$(BIN)/python benchmarks/speed/scale.py

soak: $(INSTALLED)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

bless: $(INSTALLED)
	$(BIN)/python -m harness.sources

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) .bench build dist *.egg-info
