PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format docs notebooks evaluate clean

demo: $(INSTALLED)  ## Index the demo knowledge base into Chroma and answer questions from it.
	$(BIN)/onegen demo

test: $(INSTALLED)  ## Run the whole test suite.
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## Check style and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)  ## Build the documentation into site/; to read it: .venv/bin/mkdocs serve
	$(BIN)/mkdocs build --strict

notebooks: $(INSTALLED)  ## Run the notebooks and keep their outputs.
	$(BIN)/python notebooks/execute.py

evaluate: $(INSTALLED)  ## Measure the bundled checkpoint.
	$(BIN)/onegen evaluate --recipe mini

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) .demo
