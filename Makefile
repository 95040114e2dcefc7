# Two commands for a new user: `make bench` (set-up and the main job) and `make test` (set-up and tests).
# Each makes its own .venv with Python 3.10 or newer: `make bench PYTHON=python3.12` picks one.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out
# One thread, and all cores up to two: what an embedded board has to spare.
CORES := $(shell nproc 2>/dev/null || echo 1)
THREADS ?= $(if $(filter 1,$(CORES)),1,1 2)
MODELS ?= hetconv_resnet34_p4 hetconv_resnet34_p8
PYTEST_ARGS ?=
# Two tests at a time, where there are two cores.
JOBS ?= $(if $(filter 1,$(CORES)),1,2)
# What an editable install has to be made again for.
SOURCES = pyproject.toml inference/kernels/cpu/CMakeLists.txt $(wildcard inference/kernels/cpu/*.h inference/kernels/cpu/*.cpp)
CXX_FILES := $(wildcard inference/kernels/cpu/*.h inference/kernels/cpu/*.cpp tests/inference/*.h tests/inference/*.cpp)
# What fails most comes first.
TESTS := tests/test_imports.py tests/timm_hetconv tests/inference tests/calib tests/gpu tests/test_docs.py

# Triton Inference Server has packages of its own, an older NumPy among them.
SERVE_VENV := .venv-serve
MODEL ?= hetconv_resnet20_cifar_p4.cifar10_jpeg
NAME ?= cifar

# On a machine with an NVIDIA GPU, apart from .venv: onnxruntime-gpu and onnxruntime are one import name.
GPU_VENV := .venv-gpu

.PHONY: bench test test-slow test-long lint format setup serve gpu-check clean

bench: $(VENV)/.bench
	mkdir -p $(OUT)
	$(BIN)/hetconv bench $(MODELS) $(addprefix --threads ,$(THREADS)) --json $(OUT)/bench.json
	$(BIN)/python benchmarks/shipped_accuracy.py --json $(OUT)/accuracy.json
	$(BIN)/hetconv report $(OUT)/bench.json -o $(OUT)/report $$([ -f $(OUT)/accuracy.json ] && echo --accuracy $(OUT)/accuracy.json)
	@echo "The table with its plots: $(OUT)/report/index.html"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not long and not slow" -n $(JOBS) --dist worksteal $(TESTS) $(PYTEST_ARGS)

# The kernels under sanitizers, every registered model as an engine of TensorRT-RTX: CI runs it after `make test`.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not long" -n $(JOBS) --dist loadgroup $(TESTS) $(PYTEST_ARGS)

test-long: $(VENV)/.dev $(SERVE_VENV)/.ready
	TRITON_PYTHON=$(CURDIR)/$(SERVE_VENV)/bin/python $(BIN)/python -m pytest $(TESTS) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

setup: $(VENV)/.dev

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 2; }
	@# A half-made one (Debian without python3-venv) must not pass for done the next time.
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

# Without the library first: it is left out where it cannot be compiled, and an old one must not pass for it.
$(VENV)/.bench: $(SOURCES) | $(VENV)/pyvenv.cfg
	rm -f inference/kernels/cpu/libhetconv.so
	$(BIN)/python -m pip install --quiet --editable '.[cpu,peers]'
	touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/pyvenv.cfg
	rm -f inference/kernels/cpu/libhetconv.so
	$(BIN)/python -m pip install --quiet --editable '.[cpu,peers,rtx,dev,bindings]'
	touch $@ $(VENV)/.bench $(VENV)/.serve

$(VENV)/.serve: $(SOURCES) | $(VENV)/pyvenv.cfg
	rm -f inference/kernels/cpu/libhetconv.so
	$(BIN)/python -m pip install --quiet --editable '.[cpu,serve]'
	touch $@

serve: $(VENV)/.serve $(SERVE_VENV)/.ready
	mkdir -p $(OUT)
	@# Once: what was activated since then is not undone.
	@if [ -d $(OUT)/models/$(NAME) ]; then echo "$(OUT)/models/$(NAME) is there, and served as it is: NAME=... deploys another"; \
		else $(BIN)/hetconv deploy $(MODEL) --to $(OUT)/models --name $(NAME); fi
	$(BIN)/hetconv serve $(OUT)/models --python $(SERVE_VENV)/bin/python

$(SERVE_VENV)/.ready: | $(VENV)/pyvenv.cfg
	$(BIN)/python -m venv $(SERVE_VENV) || { rm -rf $(SERVE_VENV); exit 2; }
	$(SERVE_VENV)/bin/python -m pip install --quiet 'nvidia-pytriton>=0.5.14' 'onnxruntime>=1.20' pillow
	touch $@

gpu-check: $(GPU_VENV)/.ready
	$(GPU_VENV)/bin/python benchmarks/gpu_check.py --output $(OUT)/gpu-check

$(GPU_VENV)/.ready: $(SOURCES)
	@nvidia-smi >/dev/null 2>&1 || { echo "gpu-check needs an NVIDIA GPU and its driver: nvidia-smi finds none" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ctypes, sys; v = ctypes.c_int(); ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(v)); sys.exit(v.value < 13000)' || \
		{ echo "gpu-check installs packages of CUDA 13: update the NVIDIA driver to 580 or newer" >&2; exit 2; }
	$(PYTHON) -m venv $(GPU_VENV) || { rm -rf $(GPU_VENV); exit 2; }
	$(GPU_VENV)/bin/python -m pip install --quiet --editable '.[gpu-base,dev]'
	$(GPU_VENV)/bin/python -m pip install --quiet tensorrt-rtx-cu13 || echo "without TensorRT-RTX: its check is skipped"
	$(GPU_VENV)/bin/python -m pip install --quiet pycuda || echo "pycuda was not compiled (it needs the CUDA toolkit): its checks will fail"
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) $(SERVE_VENV) $(OUT) build *.egg-info
