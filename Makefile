# Needs python3 (>= 3.11), gcc and make; everything else goes into .venv and var/.
PYTHON ?= python3
PIP_FLAGS ?= # handed to pip, e.g. an index with a smaller torch
PACKAGES = broker producer workers operators
RUN = .venv/bin/python
STAMP = .venv/.installed
WORKERS = -n 3 --dist loadfile # most tests wait for processes; a file stays on one worker, its servers are shared

.PHONY: setup demo test test-full check bench chaos soak fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer; say make PYTHON=python3.12")'
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	@echo "installing into .venv (several minutes the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[workers,local,dev]'
	@touch $@

demo: setup
	@$(RUN) -m benchmarks.demo

test: setup
	@$(RUN) -m pytest -q -m 'not slow' $(WORKERS)

test-full: setup
	@$(RUN) -m pytest -q $(WORKERS)

check: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy --strict $(PACKAGES)

# FUZZ_SECONDS=60 make fuzz; prints the seed and the smallest input that failed
fuzz: setup
	@$(RUN) -m tests.fuzz

# make bench QUICK=1 ends within a minute
bench: setup
	@$(RUN) -m benchmarks.bench $(if $(QUICK),--quick)

# every fault a pool can meet, under load; QUICK=1 ends within six minutes
chaos: setup
	@$(RUN) -m tests.chaos $(if $(QUICK),--quick)

# make soak SECONDS=3600: the full suite again and again, while keys, memory, descriptors and threads must stay flat
soak: setup
	@$(RUN) -m tests.chaos.soak $(or $(SECONDS),3600)

clean:
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
