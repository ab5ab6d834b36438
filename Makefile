# Needs python3 (>= 3.11), gcc and make; everything else goes into .venv and var/.
PYTHON ?= python3
PIP_FLAGS ?= # handed to pip, e.g. an index with a smaller torch
PACKAGES = broker producer workers operators
RUN = .venv/bin/python
STAMP = .venv/.installed
WORKERS = -n 3 --dist loadfile # most tests wait for processes; a file stays on one worker, its servers are shared

.PHONY: setup s3 demo test test-full check bench scale gpu chaos soak fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer; say make PYTHON=python3.12")'
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	@echo "installing into .venv (several minutes the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[workers,local,dev]'
	@touch $@

demo: setup
	@$(RUN) -m benchmarks.demo

# Where it is set (many containers), every process that a test starts would compile our sources anew.
test test-full: export PYTHONDONTWRITEBYTECODE =

test: setup
	@$(RUN) -m pytest -q -m 'not slow' $(WORKERS)

test-full: setup s3
	@$(RUN) -m pytest -q $(WORKERS)

# s3fs and moto's server want different botocores: each has a folder of its own. Without them the test of S3 skips.
s3: setup
	@for package in s3fs moto[server]; do \
		to=var/s3/$${package%%\[*}; \
		test -d $$to || { rm -rf $$to.part; \
			$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --target $$to.part $$package 2>/dev/null && mv $$to.part $$to \
			|| echo "$$package cannot be installed: the test of S3 skips"; }; \
	done

check: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy --strict $(PACKAGES)

# FUZZ_SECONDS=60 make fuzz; prints the seed and the smallest input that failed
fuzz: setup
	@$(RUN) -m tests.fuzz

# beside the bare loop and the peers, which are installed into var/peers at first use; QUICK=1 ends within a minute
bench: setup
	@$(RUN) -c 'import matplotlib' 2>/dev/null || $(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt matplotlib || true
	@$(RUN) -m benchmarks.bench $(if $(QUICK),--quick)

# how the cost scales: slots, backlog, payload, producers, idle; QUICK=1 ends within a minute, ONLY=backlog takes one part
scale: setup
	@$(RUN) -m benchmarks.scale $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

# on a machine with torch and a CUDA device, by $(PYTHON) if its torch sees one, else by .venv: the GPU's tests, then the bare
# loop against the pool into benchmarks/results/gpu.json; GPU_ARGS='--rows 16 --retirements 20' takes less
gpu:
	@for python in $(PYTHON) $(RUN); do \
		if $$python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then \
			$$python -m pytest -q -o minversion=7 -m gpu tests/gpu; tests=$$?; \
			$$python -m benchmarks.gpu $(GPU_ARGS) && exit $$tests; exit 1; \
		fi; \
	done; \
	echo "make gpu: neither $(PYTHON) nor $(RUN) has a torch that sees a CUDA device; name one with PYTHON=..., nvidia-smi shows the driver's devices"; \
	exit 1

# every fault a pool can meet, under load; QUICK=1 ends within six minutes
chaos: setup
	@$(RUN) -m tests.chaos $(if $(QUICK),--quick)

# make soak SECONDS=3600: the full suite again and again, while keys, memory, descriptors and threads must stay flat
soak: setup
	@$(RUN) -m tests.chaos.soak $(or $(SECONDS),3600)

clean:
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
