# The checks of laptop and CI: `make check` changes nothing, `make fix` repairs format and simple lint.
BIN := .venv/bin

.PHONY: check env format lint types test fix docs

check: format lint types test

env:
	bash tools/env.sh

format: env
	$(BIN)/ruff format --check .

lint: env
	$(BIN)/ruff check .

types: env
	$(BIN)/pyright

test:
	bash tools/test.sh

fix: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env  # into site/; a warning is an error
	$(BIN)/mkdocs build --strict
