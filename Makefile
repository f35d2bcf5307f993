# `make quickstart` and `make test` work on a bare machine with Python >= 3.11 and make.
PYTHON ?= python3
# Threads that wait go to sleep soon: spinning beside another process costs dearly.
export GOMP_SPINCOUNT ?= 3000
BIN := .venv/bin
INSTALLED := .venv/installed

# What the tests need. Not `benchmarks`; not `tensorrt`, whose packages only a GPU runs; not
# `wandb` and `mlflow`: Lightning imports torchmetrics if it is there, which lengthens the
# start of every process by half. `make lowest` and `make newest` test these two.
EXTRAS := distill,export,serving,bulk,ray,hub,openvino,tensorrt-rtx,quickstart,docs,dev
comma := ,
# Of `make deployed` and `make cluster`: what is deployed.
BUNDLE ?= quickstart.isogon

.PHONY: quickstart test check slow lowest newest docs reliability gpu-check deployed cluster \
  keys openapi benchmarks constraints clean

quickstart: $(INSTALLED)
	$(BIN)/isogon quickstart

test: check
	$(BIN)/python -m pytest -m "not slow and not alone" --numprocesses 2

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not alone"
	$(BIN)/python -m pytest -m alone

# A part of the suite with the lowest versions that pyproject.toml admits, and with the
# newest, each in an environment of its own; docs/verification.md has the dates. Warnings do
# not fail: packages of different years warn of each other.
VERSIONS := distill,export,serving,bulk,hub,openvino,quickstart,wandb,mlflow,dev
RESOLVED := tests/test_golden.py tests/isogon tests/distill/objectives \
  tests/distill/test_training.py tests/export/test_parity.py tests/serving/test_service.py
lowest: RESOLUTION := lowest-direct
newest: RESOLUTION := highest
lowest newest: $(INSTALLED)
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-$@
	$(BIN)/uv pip install --python .venv-$@/bin/python --upgrade --resolution $(RESOLUTION) --editable ".[$(VERSIONS)]"
	.venv-$@/bin/python -m pytest -W default -m "not slow and not alone" $(RESOLVED)
	.venv-$@/bin/python -m pytest -W default tests/distill/test_loggers.py

# Every promise of docs/reliability.md attacked in full; an hour and a half on two cores.
reliability: export ISOGON_HOSTILE ?= 10000
reliability: export ISOGON_OVERLOAD ?= 60
reliability: export ISOGON_DAMAGED ?= 10000
reliability: export ISOGON_SPLITS ?= 1000
reliability: export ISOGON_SOAK ?= 900
reliability: export ISOGON_KILLS ?= 50
reliability: $(INSTALLED)
	$(BIN)/python -m pytest tests/reliability tests/distill/test_killed_runs.py -s

# Every page of benchmarks/results again, for hours and with nothing else running; an
# interrupted one goes on where students and rows are kept in *-runs.
SHARED ?= ../shared/data
PHOTOGRAPHS ?= $(SHARED)/photos/imagenet-samples.tar
RESULTS := benchmarks/results
comma := ,
measured = $(BIN)/python benchmarks/$(1) > $(RESULTS)/$(2).pending && \
  mv $(RESULTS)/$(2).pending $(RESULTS)/$(2)
benchmarks: $(INSTALLED)
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable ".[$(EXTRAS),benchmarks]"
	$(call measured,defaults.py --shared $(SHARED) --jobs 1,defaults-cpu.md)
	$(call measured,chain.py --shared $(SHARED) --course $(RESULTS)/chain-course.json,chain-cpu.md)
	$(call measured,objectives.py --shared $(SHARED) --jobs 1,objectives-cpu.md)
	$(call measured,head_start.py --images $(SHARED)/tiny-imagenet/train.tar,head-start.md)
	$(call measured,objective_cost.py,objective-cost-cpu.md)
	$(call measured,trainer_overhead.py,trainer-overhead-cpu.md)
	$(call measured,detectors.py --data $(SHARED),detectors-cpu.md)
	$(call measured,coreset.py --data $(SHARED),coreset-cpu.md)
	$(call measured,drift.py --svg $(RESULTS)/drift.svg,drift.md)
	$(call measured,families.py --images $(PHOTOGRAPHS) --runs families-runs,families-cpu.md)
	$(call measured,runtime.py --images $(PHOTOGRAPHS),runtime-cpu.md)
	$(call measured,serving.py --images $(PHOTOGRAPHS) --runs serving-runs,serving-cpu.md)
	$(call measured,serving.py --images $(PHOTOGRAPHS) --runs serving-runs --bank 0 --peers "Isogon" "Isogon$(comma) 2 processes" "FastAPI$(comma) 2 workers",serving-processes-cpu.md)
	$(call measured,embedding.py --bundle comparison-runs/chain-tiny-64.isogon --images $(PHOTOGRAPHS),embedding-cpu.md)
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/charts.py

# The pages in site/: a broken link, a page out of place or a misspelt word fails.
docs: $(INSTALLED)
	$(BIN)/codespell
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Wants a CUDA device, unless GPU_CHECK=--dry-run; writes
# benchmarks/results/gpu-check-<gpu>.md.
gpu-check: $(INSTALLED)
	$(BIN)/python benchmarks/gpu_check.py $(GPU_CHECK)

# Docker, Prometheus, and two hosts that are namespaces: as root; docs/deployed.md has the
# result.
deployed cluster: $(INSTALLED)
	$(BIN)/python -m deploy.trial.$@ $(BUNDLE)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Isogon needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; run make with PYTHON=python3.12, say.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

# Every key of a recipe, with its defaults.
keys: $(INSTALLED)
	$(BIN)/python -m distill.recipe.keys > recipes/keys.md

# The schema of the service's routes.
openapi: $(INSTALLED)
	$(BIN)/python -m serving.api.openapi > serving/api/openapi.json

# Pin what the ranges of pyproject.toml resolve to today, as plain name==version lines.
constraints:
	$(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-header --no-emit-index-url $(foreach extra,$(subst $(comma), ,$(EXTRAS)) benchmarks cuda wandb mlflow,--extra $(extra)) pyproject.toml --output-file constraints.txt
	$(BIN)/uv --version | sed -E 's/^uv ([0-9.]+).*/uv==\1/' >> constraints.txt

clean:
	rm -rf .venv .venv-lowest .venv-newest
