# A newcomer needs two commands: `make demo` and `make test`. Either sets everything up first.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install system demo test lint bench clean

install: system $(INSTALLED)

# Renderers of the simulators: Debian packages, installed here where that is allowed.
system:
	@PYTHON=$(PYTHON) scripts/system-packages

# torch comes first and by its exact version: pip then takes a build for this machine, where a plain `torch` may bring gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rlvla3 needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version): name another one, such as make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[metaworld,libero-simulator,maniskill,files,ray,plots,dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps hf-libero bddl
	@touch $@

# The main job on real input: clone a small VLA from scripted experts, then improve it by asynchronous RL. An earlier demo is moved aside.
demo: install
	@if [ -d runs/demo ]; then mv runs/demo runs/demo-$$(date -r runs/demo +%Y%m%d-%H%M%S); fi
	$(BIN)/rlvla3 train recipes/quickstart.yaml --run-dir runs/demo

test: install
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On an otherwise idle machine: both measure time.
bench: install
	$(BIN)/rlvla3 bench interaction
	$(BIN)/rlvla3 bench ladder

# All that can be made again. Runs cannot: they stay.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
