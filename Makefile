# `make help` lists the targets. Only Python >= 3.11 and make are needed: everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help setup demo run test check docs tensorboard bench recipes clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fmx needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[onnx,search,slurm,parquet,albumentations,timm,mlflow,wandb,explain,dev]'
	@touch $@

setup: $(INSTALLED)  ## make .venv with fmx and everything it uses

demo: setup  ## train on the digits inside scikit-learn: no download, about a minute
	$(BIN)/python -m fmx.run data=digits model=lenet trainer.max_epochs=20
	@echo
	@echo "Next: look at outputs/latest/figures/, or type"
	@echo "  make tensorboard                                        curves and pictures in the browser"
	@echo "  $(BIN)/fmx data=digits model=mlp optim=sgd              other parts, by name"
	@echo "  $(BIN)/fmx --help                                       all of them"

run: setup  ## the default run on Fashion-MNIST (make run ARGS='model=dilated optim=adam')
	$(BIN)/python -m fmx.run $(ARGS)

test: setup  ## the main tests, in a few minutes, without data or services
	$(BIN)/python -m pytest -n auto --dist worksteal -m main

check: setup  ## formatting, lint, types, the order of imports, and all tests; FMX_DATA_ROOT=DIR adds those on the real data
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n auto --dist worksteal; tests=$$?; \
	if [ $$tests = 1 ]; then \
	  echo "What failed beside other tests runs once more, alone: it is red if it fails again."; \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; tests=$$?; \
	fi; \
	wait $$types && exit $$tests

tensorboard: setup  ## look at all runs in the browser, from this machine alone
	$(BIN)/fmx tensorboard

docs: setup  ## write the generated pages and build the site into site/
	$(BIN)/python docs/generate.py
	$(BIN)/python -m mkdocs build --strict

bench: setup  ## measure what docs/benchmarks.md claims
	$(BIN)/python benchmarks/run_all.py

recipes: setup  ## all recipes, five seeds each, and their tables in docs/recipes.md
	$(BIN)/python benchmarks/recipes.py

clean:  ## remove .venv and caches; outputs/ stays
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .mypy_cache
