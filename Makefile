# make demo | test | lint | bench | sanitize | wheel-check | headers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := CMakeLists.txt $(wildcard runtime/csrc/*)
# onnxruntime's C headers: with them, the library of its custom operators is built and tested.
HEADERS := build/onnxruntime
OPERATORS := $(if $(wildcard $(HEADERS)),-C cmake.define.SPIKETICKET_ONNXRUNTIME_INCLUDE=$(abspath $(HEADERS)))

.PHONY: demo test lint bench sanitize wheel-check headers clean

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE) $(wildcard $(HEADERS))
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt $(OPERATORS) -e '.[cpu,train,report,test,dev]'
	touch $@

headers: $(HEADERS)
$(HEADERS):
	.ci/onnxruntime-headers $@

demo: $(INSTALLED)
	$(BIN)/python -m spiketicket.demo --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# CIFAR-10 lies in $(DATA)/cifar-10-batches-py; without it, synthetic images are timed.
DATA := data
bench: $(INSTALLED)
	$(BIN)/pip install -q -c constraints.txt openvino matplotlib
	$(BIN)/python benchmarks/inference.py --data $(DATA)

# The engine's tests under the address and undefined-behaviour sanitizers, without torch.
SANITIZED := build/sanitize/bin
LIBRARIES := $(shell g++ -print-file-name=libasan.so):$(shell g++ -print-file-name=libubsan.so)
build/sanitize/.installed: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv build/sanitize
	$(SANITIZED)/pip install -q -c constraints.txt -C cmake.define.SPIKETICKET_SANITIZE=ON $(OPERATORS) '.[cpu,test]'
	touch $@

sanitize: build/sanitize/.installed
	LD_PRELOAD=$(LIBRARIES) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(SANITIZED)/python -m pytest tests/runtime -m "not slow"

# A wheel in an empty environment: the runtime must work without torch.
wheel-check: $(INSTALLED)
	rm -rf build/wheel build/wheel-venv
	$(BIN)/pip wheel -q --no-deps -c constraints.txt -w build/wheel .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install -q -c constraints.txt build/wheel/spiketicket-*.whl
	cd build && wheel-venv/bin/python ../tests/wheel_check.py

clean:
	rm -rf $(VENV) build demo
