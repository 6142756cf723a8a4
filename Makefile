# `make demo` shows what gcpatch does; `make test` checks it. Both need only Python and this file.
PYTHON ?= python3
BIN := .venv/bin
SLOW = $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

.PHONY: demo test lint docs clean test-slow test-networks test-attacks test-explainers \
	test-experiments test-machines test-faults

demo: .venv/gcpatch
	$(BIN)/gcpatch demo --out runs/demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every public name, from the docstrings; what pdoc cannot read or resolve is an error, but for
# optax's ArrayTree, which names itself.
DOCUMENTED := gcpatch $(addprefix gcpatch.,attacks data evaluation explainers interpreters losses \
	networks report runs) convert
SELF := ignore:Error parsing type annotation typing.Union[jax

docs: .venv/tests
	$(BIN)/python -W error -W "$(SELF)" -m pdoc -d google -o build/docs $(DOCUMENTED)
	@echo "open build/docs/gcpatch.html"

# ---- what takes longer, by area; the times are those of two cores

test-slow: test-networks test-attacks test-explainers test-experiments docs

test-networks: .venv/tests
	@echo "full-size networks and minis against PyTorch: about half an hour and 12 GB of memory"
	$(BIN)/python -m pytest -m slow tests/convert/test_torchvision.py tests/convert/test_verify.py \
		tests/networks/test_networks.py tests/convert/test_reference.py

test-attacks: .venv/tests
	@echo "what the attacks reach on the minis, incremental gradients at full size: half an hour"
	$(SLOW) tests/networks/test_minis.py tests/interpreters/test_incremental.py tests/attacks/test_regions.py \
		tests/attacks/test_universal.py tests/evaluation/test_bench.py

test-explainers: .venv/tests .venv/quantus
	@echo "explainers of the minis against captum, pytorch-grad-cam, Quantus and the naive loop: 5 minutes"
	$(SLOW) tests/explainers/test_third_parties.py tests/explainers/test_occlusion.py \
		tests/evaluation/test_faithfulness.py

test-experiments: .venv/tests
	@echo "the experiments' commands with few steps, walks and notebooks: a quarter of an hour"
	$(SLOW) tests/experiments

# ---- other processors, and deliberate mistakes

# What optimises or compares, as processors without AVX-512, without AVX2, with one core, and with
# PyTorch's plain kernels would compute it; and once with all of XLA's passes.
QUICK := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
SENSITIVE := tests/attacks tests/runs tests/networks/test_minis.py tests/evaluation tests/convert \
	tests/experiments tests/interpreters tests/explainers tests/test_losses.py

test-machines: .venv/tests
	@echo "five settings, some three minutes each"
	XLA_FLAGS="--xla_cpu_max_isa=AVX $(QUICK)" $(BIN)/python -m pytest -n 2 --dist loadfile $(SENSITIVE)
	XLA_FLAGS="--xla_cpu_max_isa=AVX2 $(QUICK)" $(BIN)/python -m pytest -n 2 --dist loadfile $(SENSITIVE)
	XLA_FLAGS=--xla_cpu_enable_fast_math=false $(BIN)/python -m pytest -n 2 --dist loadfile $(SENSITIVE)
	taskset -c 0 $(BIN)/python -m pytest $(SENSITIVE)
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -n 2 --dist loadfile $(SENSITIVE)

test-faults: .venv/tests
	@echo "each of some seventy mistakes is planted in a copy of the tree: a quarter of an hour"
	$(BIN)/python -m tests.faults

.venv/gcpatch: pyproject.toml .ci/requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	grep -v '^torch' .ci/requirements.txt > .venv/constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c .venv/constraints.txt -e .
	touch $@

.venv/tests: .venv/gcpatch
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -r .ci/requirements.txt
	touch $@

# Without what it requires: it would bring a second OpenCV, which is the first one's folder.
.venv/quantus: .venv/tests
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
		quantus==0.6.0 scikit-image==0.26.0 cachetools==8.0.2
	touch $@

clean:
	rm -rf .venv build dist *.egg-info runs
