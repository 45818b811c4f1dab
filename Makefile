# Two commands for a newcomer: `make run` and `make test`. Both create .venv; only tests and captures need torch.
PYTHON ?= python3
BIN := .venv/bin
MOESIM := $(BIN)/moesim
# One thread each: the arrays are small, and the tests run side by side.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: run test baseline capture bench reports examples lint clean

run: .venv/ready
	$(MOESIM) run quickstart --out out/quickstart

test: .venv/ready-lab
	$(BIN)/ruff format --check moesim tests benchmarks
	$(BIN)/ruff check moesim tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 tests

# After an intended change of a model: what moved, then record it. Look at the difference before committing it.
baseline: .venv/ready
	-$(MOESIM) check moesim/data/baseline.yaml
	$(MOESIM) check moesim/data/baseline.yaml --update

capture: .venv/ready-lab
	$(MOESIM) capture --shipped moesim/routing/captures

bench: .venv/ready-lab
	$(BIN)/python -m pytest benchmarks --benchmark-columns=median,min,max,rounds

# Remakes the committed reports; the validation report refits every kernel unless out/validation holds the fits.
MEASUREMENTS ?= ../shared/measurements
reports: .venv/ready-lab
	$(BIN)/python benchmarks/main_job_report.py
	$(BIN)/python benchmarks/network_scaling.py
	$(MOESIM) claims --jobs 2 --report reports
	test ! -d $(MEASUREMENTS) || $(BIN)/python benchmarks/validation_report.py $(MEASUREMENTS) --published $(MEASUREMENTS)/published.yaml
	test ! -d $(MEASUREMENTS) || $(BIN)/python benchmarks/network_report.py $(MEASUREMENTS)/published.yaml

# The committed example reports: a page, its Markdown and pictures each. The plan takes some minutes.
examples: .venv/ready-lab
	$(MOESIM) place deepseek-v3-decode-h100 --policy contiguous,random,greedy,replicate_hot,eplb,affinity,topology_aware \
		--judge-on python --html reports/placement-deepseek-v3-h100.html --out reports/figures/placement
	$(MOESIM) plan deepseek-r1 --each --html reports/plan-deepseek-r1.html --out reports/figures/plan

lint: .venv/ready-lab
	$(BIN)/ruff format moesim tests benchmarks
	$(BIN)/ruff check --fix moesim tests benchmarks

.venv/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moesim needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/ready: .venv/created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

# torch first and pinned: a bare "torch" would pull several GB of CUDA libraries.
.venv/ready-lab: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lab,test]'
	touch $@

clean:
	rm -rf .venv out build dist .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
