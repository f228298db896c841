# make run    the main job: trains DDRL-AMSA, compares it, saves checkpoint, metrics and plots
# make reproduce   runs every study at its short size and writes docs/reproduction.md
# make check  lint, types and import layers: within a minute
# make quick  the tests in which a change, another Python or another JAX shows first
# make test   everything that must pass before a change lands
# make test-wheel  the same tests on the built wheel, outside the repository
# make testbed   five real nodes beside the simulator, within six minutes
# make docs   the documentation site, into build/site
#
# All make .venv first and install the pinned versions into it. Choose an interpreter with
# PYTHON=python3.13 (where .venv is of another one, the environment is .venv-3.13), extras with
# EXTRAS=plot,gpu, and arguments of the job with ARGS=... With PINS= it is what pip takes today.

PYTHON ?= python3
EXTRAS ?= plot
WORKERS ?= 2

version := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
other := $(if $(wildcard .venv),$(if $(wildcard .venv/lib/python$(version)),,-$(version)))
VENV := .venv$(other)
PY := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

interpreter := $(VENV)/.python-$(version)
# One stamp for each set of extras, so that nothing is installed twice.
run_ready := $(VENV)/.installed-$(EXTRAS)
test_ready := $(VENV)/.installed-$(EXTRAS),test
testbed_ready := $(VENV)/.installed-$(EXTRAS),testbed
docs_ready := $(VENV)/.installed-docs
slow_ready := $(VENV)/.installed-$(EXTRAS),test,peers,cluster

.PHONY: run reproduce check test quick test-slow test-wheel testbed lint format docs bench constraints clean
.DELETE_ON_ERROR:

run: $(run_ready)
	$(PY) train/ddrl_amsa.py $(ARGS)

# ARGS="--size full" on a GPU.
reproduce: $(run_ready)
	$(PY) train/reproduction.py --size short --jobs 2 $(ARGS)

# Whole files go to a worker, so that what a file's tests share is compiled once.
test: export JAX_PLATFORMS ?= cpu
test: check
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

# What others' versions break: the command line, exports, flags and files, and a little of
# everything that is computed.
QUICK := tests/cli/test_cli.py tests/core/test_compilation.py tests/test_imports.py tests/test_struct.py \
	tests/test_every_mode.py tests/deploy/test_jaxpr.py tests/deploy/test_graph.py \
	tests/deploy/test_export.py tests/training/test_checkpoint.py
quick: export JAX_PLATFORMS ?= cpu
quick: $(test_ready)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "quick or not slow" $(QUICK) $(ARGS)

# Installs PyTorch and Ray too, for the tests with other people's learners and of sweeps.
test-slow: export JAX_PLATFORMS ?= cpu
test-slow: $(slow_ready)
	$(PY) -m pytest -m slow $(ARGS)

# What the repository's own files are tested by stays behind.
OUTSIDE := build/outside
test-wheel: export JAX_PLATFORMS ?= cpu
test-wheel: $(test_ready)
	rm -rf $(OUTSIDE) && mkdir -p $(OUTSIDE)
	PIP_BUILD_CONSTRAINT=constraints/cpu.txt \
		$(PY) -m pip wheel --quiet --no-deps --wheel-dir $(OUTSIDE)/dist .
	$(PYTHON) -m venv $(OUTSIDE)/venv
	PIP_CONSTRAINT=constraints/cpu.txt $(OUTSIDE)/venv/bin/python -m pip install --quiet \
		"$$(ls $(OUTSIDE)/dist/*.whl)[$(EXTRAS),test]"
	cp -r tests pyproject.toml $(OUTSIDE)
	cd $(OUTSIDE) && venv/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" \
		--ignore tests/benchmarks --ignore tests/test_docs.py --ignore tests/test_imports.py \
		--ignore tests/test_make.py \
		--ignore tests/test_notebooks.py --ignore tests/test_package.py \
		--ignore tests/deploy/test_edge.py --ignore tests/deploy/test_service_benchmark.py \
		--ignore tests/deploy/test_server.py $(ARGS)

lint: check  # its name of before
check: $(test_ready)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(test_ready)
	$(PY) -m jaxmec.cli.index
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# A warning is an error: a link to nothing, a name that does not exist.
docs: export JAX_PLATFORMS ?= cpu
docs: $(docs_ready)
	$(PY) -m mkdocs build --strict

# ARGS="--kill-every 15" kills a node now and then.
testbed: export JAX_PLATFORMS ?= cpu
testbed: $(testbed_ready)
	$(PY) -m jaxmec_testbed run --horizon 30 $(ARGS)

# ARGS="--size full" for every size; EXTRAS=plot,peers for the comparison with PyTorch.
bench: $(run_ready)
	$(PY) benchmarks/run.py $(ARGS)

$(VENV)/.installed-%: pyproject.toml $(wildcard constraints/*.txt) $(interpreter)
	PIP_CONSTRAINT=$(PINS) PIP_BUILD_CONSTRAINT=$(PINS) \
		$(PY) -m pip install --quiet --editable ".[$*]"
	touch $@

# GPU and peers have files of their own: PyTorch pins NVIDIA's libraries to other versions.
# Through the environment the pins hold for the build backend as well.
PINS = constraints/$(if $(findstring gpu,$*),gpu,$(if $(findstring peers,$*),peers,cpu)).txt

$(interpreter):
	@command -v "$(PYTHON)" > /dev/null || \
		{ echo "$(PYTHON) not found; name a Python 3.11 to 3.13: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "jaxmec needs Python 3.11 to 3.13, but $(PYTHON) is $(or $(version),none);" \
			"name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# The newest versions that fit pyproject.toml, on every supported Python and platform.
constraints: $(interpreter)
	$(PY) -m pip install --quiet uv
	$(call lock,cpu) --extra plot --extra notebook --extra docs --extra test --extra wandb --extra cluster --extra testbed-train
	$(call lock,gpu) --extra plot --extra notebook --extra docs --extra test --extra wandb --extra cluster \
		--extra testbed-train --extra gpu --extra gpu-cuda12 --constraints constraints/cpu.txt
	$(call lock,peers) --extra plot --extra notebook --extra docs --extra test --extra wandb --extra cluster \
		--extra testbed-train --extra peers --constraints constraints/cpu.txt

lock = $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--no-annotate --custom-compile-command "make constraints" \
	pyproject.toml --output-file constraints/$(1).txt

clean:
	rm -rf .venv .venv-3.* build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find jaxmec jaxmec_testbed tests train benchmarks -name __pycache__ -prune -exec rm -rf {} +
