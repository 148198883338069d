# Needs make, git and Python 3.11 or 3.12; everything else goes into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

EXTRAS := s3,gcs,azure,geo,medical,hf,onnx,opencv,demo,dev
BIN := .venv/bin
STAMP := .venv/.installed
# One test process a core of the machines that the suite is timed on. Test processes start workers of their own.
TEST_PROCESSES ?= 2

.PHONY: help install demo test test-all fuzz check format constraints clean

help:
	@echo "make demo      make sample images, run the whole pipeline on them, print the metrics and the report's path"
	@echo "make test      the fast tests"
	@echo "make test-all  every test"
	@echo "make fuzz      the tests of parsers and codecs on new random input; what fails is tried again next time"
	@echo "make check     ruff, format and mypy"
	@echo "make install   .venv with everything (the others do this by themselves)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@python="$$(bash .ci/find-python)"; \
	[ -x $(BIN)/python ] || "$$python" -m venv .venv; \
	echo "installing into .venv ($$($(BIN)/python --version)); the first time this takes minutes"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'; \
	touch $@

demo: $(STAMP)
	$(BIN)/segtasks sample --output demo/images
	$(BIN)/segtasks run infra/demo.yaml

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' -n $(TEST_PROCESSES) --dist loadfile

test-all: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

fuzz: $(STAMP)
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=fuzz -n $(TEST_PROCESSES) --dist load

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Versions that still fit are kept (delete constraints.txt's lines to move them). uv resolves for both Pythons and all platforms.
constraints:
	@command -v uv >/dev/null || { echo "make constraints needs uv: pip install uv" >&2; exit 1; }
	sed 1d constraints.txt > constraints.lock
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-annotate --quiet -o constraints.lock
	{ sed -n 1p constraints.txt; cut -d';' -f1 constraints.lock | sed 's/ *$$//' | sort -u; } > constraints.new
	mv constraints.new constraints.txt
	rm constraints.lock

clean:
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache
