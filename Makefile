# make demo | test | lint | bench | sanitize
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := CMakeLists.txt $(wildcard runtime/csrc/*)

.PHONY: demo test lint bench sanitize wheel-check clean

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,train,report,test,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m spiketicket.demo --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/inference.py

# The engine's tests under the address and undefined-behaviour sanitizers, without torch.
SANITIZED := build/sanitize/bin
LIBRARIES := $(shell g++ -print-file-name=libasan.so):$(shell g++ -print-file-name=libubsan.so)
build/sanitize/.installed: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv build/sanitize
	$(SANITIZED)/pip install -q -c constraints.txt -C cmake.define.SPIKETICKET_SANITIZE=ON '.[cpu,test]'
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
