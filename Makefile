# make demo | test | test-full | lint | stub | bench | gpu-bench | sanitize | sanitize-threads | mutants | cross | wheel-check | headers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := CMakeLists.txt $(wildcard runtime/csrc/*.cpp runtime/csrc/*/*)
# onnxruntime's C headers: with them, the library of its custom operators is built and tested.
HEADERS := build/onnxruntime
OPERATORS := $(if $(wildcard $(HEADERS)),-C cmake.define.SPIKETICKET_ONNXRUNTIME_INCLUDE=$(abspath $(HEADERS)))

# The project's own builds fail on a compiler warning; `make demo` and an installation with pip do not.
STRICT := -C cmake.define.SPIKETICKET_WERROR=ON

.PHONY: demo test test-full lint stub bench gpu-bench sanitize sanitize-threads mutants cross wheel-check headers clean

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE) $(wildcard $(HEADERS))
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt $(STRICT) $(OPERATORS) -e '.[cpu,train,report,tensorboard,nir,simulators,bench,test,dev]'
	touch $@

# Only what the demo needs, unless everything is there already.
DEMO := $(VENV)/.installed-for-demo
$(DEMO): pyproject.toml constraints.txt $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing spiketicket with torch, SpikingJelly, onnxruntime and scikit-learn, and compiling its native engine:"
	$(BIN)/pip install -c constraints.txt -e '.[cpu,train,report]'
	touch $@

headers: $(HEADERS)
$(HEADERS):
	.ci/onnxruntime-headers $@

demo: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(DEMO))
	$(BIN)/python -m spiketicket.demo --out demo

# The tests that are done in four minutes on two cores; all of them.
COSTLY := slow or kill or distributed or emulator or train_whole or isa or simulators
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not ($(COSTLY))"

test-full: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Every C++ and CUDA source.
CPP := $(wildcard $(addprefix runtime/csrc/,*.cpp */*) runtime/engines/cuda/*.cuh \
    train/networks/cuda/*.cuh tests/runtime/engines/*.cpp tests/support/cuda_host/*.h)
# The types of the C++ extension, for mypy; `make stub` after a change of bindings.cpp.
STUB := runtime/engines/native/_native.pyi
build/_native.pyi: $(INSTALLED)
	mkdir -p build
	$(BIN)/python -m nanobind.stubgen -q -m spiketicket.runtime.engines.native._native -o $@
	$(BIN)/ruff format -q $@

stub: build/_native.pyi
	cp build/_native.pyi $(STUB)

lint: build/_native.pyi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	diff -u $(STUB) build/_native.pyi || { echo 'lint: $(STUB) is old: run make stub' >&2; exit 1; }
	$(BIN)/mypy

# CIFAR-10 lies in $(DATA)/cifar-10-batches-py; without it, synthetic images are timed.
DATA := data
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.inference --data $(DATA)
	for ticket in build/bench/models/*-98.13-*; do $(BIN)/python -m benchmarks.layers $$ticket || exit 1; done

# The same on an NVIDIA GPU (docs/gpu.md): inference, training, whether it learns as well, then VGG16's tickets with and
# without Early-Time. PYTHON needs CuPy and torch for CUDA beside the extras train, report and bench.
gpu-bench:
	@test -d $(DATA)/cifar-10-batches-py || { echo "gpu-bench: no CIFAR-10 in DATA=$(DATA) (docs/data.md)" >&2; exit 1; }
	$(PYTHON) -m benchmarks.gpu --data $(DATA) --out build/gpu-bench
	$(PYTHON) -m benchmarks.training --device cuda --batch 128 --duration 2 --precisions float32,bf16,fp16 \
	    --out build/gpu-bench/training
	$(PYTHON) -m benchmarks.learning --data $(DATA) --device cuda --arch vgg16 --width 1 --images 50000 \
	    --test-images 10000 --batch-size 128 --lr 0.3 --precisions float32,bfloat16 \
	    --out build/gpu-bench/learning
	$(PYTHON) -m benchmarks.tickets --data $(DATA) --device cuda --precision bfloat16 --arch vgg16 --width 1 \
	    --images 50000 --test-images 10000 --epochs 10 --rewind-epoch 2 --batch-size 128 --lr 0.3 --seeds 1 \
	    --methods imp,imp-et --out build/gpu-bench/tickets

# The engine's tests under the address and undefined-behaviour sanitizers, without torch; GPU kernels are not built so.
SANITIZED := build/sanitize/bin
LIBRARIES := $(shell g++ -print-file-name=libasan.so):$(shell g++ -print-file-name=libubsan.so)
# Not editable: what they installed is old where any source is newer.
SOURCES := $(NATIVE) $(shell find src runtime export train profiling -name '*.py')
build/sanitize/.installed: pyproject.toml constraints.txt $(SOURCES)
	$(PYTHON) -m venv build/sanitize
	$(SANITIZED)/pip install -q -c constraints.txt -C cmake.define.SPIKETICKET_SANITIZE=address $(STRICT) $(OPERATORS) '.[cpu,test]'
	touch $@

sanitize: build/sanitize/.installed
	LD_PRELOAD=$(LIBRARIES) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(SANITIZED)/python -m pytest -n 2 tests/runtime tests/model/test_reader.py -m "not slow" -k "not cuda"

# What threads share, under the thread sanitizer.
RACED := build/sanitize-threads/bin
build/sanitize-threads/.installed: pyproject.toml constraints.txt $(SOURCES)
	$(PYTHON) -m venv build/sanitize-threads
	$(RACED)/pip install -q -c constraints.txt -C cmake.define.SPIKETICKET_SANITIZE=thread $(STRICT) '.[cpu,test]'
	touch $@

sanitize-threads: build/sanitize-threads/.installed
	LD_PRELOAD=$(shell g++ -print-file-name=libtsan.so) TSAN_OPTIONS=halt_on_error=1 OPENBLAS_NUM_THREADS=1 \
	    $(RACED)/python -m pytest -s tests/runtime/engines/test_engines.py \
	    -k "native and (number_of_threads or several_threads or residual_blocks) or number_of_threads or generators"

# Deliberate slips in the engine, each of which the tests must notice; a quarter of an hour.
MUTATED := build/mutants/bin
mutants:
	$(PYTHON) -m venv --clear build/mutants
	$(MUTATED)/pip install -q -c constraints.txt nanobind ninja cmake '.[cpu,test]'
	PATH=$(abspath $(MUTATED)):$$PATH $(MUTATED)/python tests/mutants.py

# The engine compiled for AArch64 (Debian: g++-aarch64-linux-gnu), and its NEON kernels held against the portable ones
# under an emulator (qemu-user).
ARM := aarch64-linux-gnu-g++ -I$(abspath runtime/csrc) -std=c++20 -O3 -Wall -Wextra -Werror -ffp-contract=off -DSPIKETICKET_NEON
FOREIGN := %_avx2.cpp %_avx512.cpp %/onnxruntime_ops.cpp
cross:
	mkdir -p build/cross
	cd build/cross && $(ARM) -c $(addprefix ../../,$(filter-out $(FOREIGN),$(wildcard runtime/csrc/*/*.cpp)))
	$(ARM) -static tests/runtime/engines/kernels_check.cpp build/cross/kernels_*.o build/cross/dispatch.o -o build/cross/check
	qemu-aarch64 build/cross/check

# A wheel in an empty environment: the runtime must work without torch.
wheel-check: $(INSTALLED)
	rm -rf build/wheel build/wheel-venv
	$(BIN)/pip wheel -q --no-deps -c constraints.txt -w build/wheel .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install -q -c constraints.txt build/wheel/spiketicket-*.whl
	cd build && wheel-venv/bin/python ../tests/wheel_check.py

clean:
	rm -rf $(VENV) build demo
