# make demo   sets everything up and detects people on the shipped images
# make test   sets everything up and runs the tests
# make test-pythons   the demo and a part of the tests on each Python 3.8 to 3.13 that is found
# make fuzz   feeds every validator mutations of valid files, EXAMPLES=2000 of each
# make docs   writes docs/cli.md anew from the parsers of the scripts
# make format / make clean
# make bench   what the CPU does in which time; with VIDEO=street.avi also detect on a video

PYTHON ?= python3
ifndef VENV
ifneq ($(filter file default,$(origin PYTHON)),)
VENV   := .venv
else    # a Python that is named has an environment of its own: make test PYTHON=python3.10
VENV   := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(VENV),.venv-)
$(error PYTHON=$(PYTHON) does not run)
endif
endif
endif
PY     := $(VENV)/bin/python
SOURCES := $(wildcard *.py) models utils escalator benchmarks deploy tests docs/make_cli.py
WEIGHTS := weights/yolov5s6_pose
TRACKEVAL := trackeval==1.3.0
# About a minute of tests, a part of every wing
SMOKE  := tests/pose tests/dataset tests/graph tests/quantization/test_cache.py tests/test_cli.py \
	tests/test_requirements.py tests/evaluation/test_metrics.py tests/models/test_yolo.py \
	tests/training/test_trainer.py tests/training/test_loss.py
STUBS  := tensorrt-stubs==10.13.0.35.1
# A Python 3.8, if this machine has one, also runs the tests that need no torch.
PY38   ?= $(shell for p in python3.8 $(HOME)/.pyenv/versions/3.8*/bin/python3.8; do \
                    "$$p" -c '' 2>/dev/null && echo "$$p" && break; done)

.PHONY: demo test test-py38 test-pythons smoke fuzz lint format docs bench clean

demo: $(VENV)/.installed
	$(PY) models/export_onnx.py --weights $(WEIGHTS).pt --img-size 640 --simplify
	$(PY) detect_multi_backend.py --weights $(WEIGHTS).onnx --source data/images --device cpu --conf-thres 0.5

test: $(VENV)/.installed-dev lint
	$(PY) -m pytest -n 2 -rs    # -rs: why tests were skipped
ifneq ($(PY38),)
	$(MAKE) test-py38
else
	@echo "no Python 3.8 on this machine: its part of the tests was not run"
endif

test-py38: .venv38/.installed
	.venv38/bin/python -m pytest -n 2 -rs -p no:cacheprovider

# The first Python of each version that runs, in PATH or pyenv
PYTHONS ?= $(foreach v,3.8 3.9 3.10 3.11 3.12 3.13,$(shell \
	for p in python$(v) $(HOME)/.pyenv/versions/$(v).*/bin/python; do \
		"$$p" -c 'import sys; assert "%d.%d" % sys.version_info[:2] == "$(v)"' 2>/dev/null \
			&& echo "$$p" && break; done))

test-pythons:
	@for p in $(PYTHONS); do echo "== $$p"; $(MAKE) --no-print-directory smoke PYTHON=$$p || exit 1; done

smoke: demo $(VENV)/.installed-dev
	$(PY) -m pytest -p no:cacheprovider $(SMOKE)

EXAMPLES ?= 2000
fuzz: $(VENV)/.installed-dev
	FUZZ_EXAMPLES=$(EXAMPLES) $(PY) -m pytest -n 2 tests/test_fuzz.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	test ! -x $(VENV)/bin/mypy || $(VENV)/bin/mypy    # Python 3.11 and newer

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

docs: $(VENV)/.installed
	$(PY) docs/make_cli.py

bench: $(VENV)/.installed
	$(PY) models/export_onnx.py --weights $(WEIGHTS).pt --img-size 640 --simplify
	$(PY) benchmarks/graph.py
	test -z "$(VIDEO)" || $(PY) benchmarks/pipeline.py --source $(VIDEO)
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/escalator.py

clean:    # results and trained weights in runs/ stay
	rm -rf .venv .venv-* .venv38 .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PY) -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	# Beside the other packages: as one of them it would pass for a module named tensorrt.
	$(PY) -m pip install -q --disable-pip-version-check --no-deps --target $(VENV)/stubs \
		--upgrade $(STUBS) || echo "$(STUBS) was not to be had: its test is skipped"
	$(PY) -m pip install -q --disable-pip-version-check --no-deps $(TRACKEVAL)
	touch $@

.venv38/.installed: requirements.txt requirements-dev.txt
	test -x .venv38/bin/python || $(PY38) -m venv .venv38
	sed '/^torch/d; /^onnxslim/d' requirements.txt >.venv38/requirements.txt
	.venv38/bin/python -m pip install -q --disable-pip-version-check -r .venv38/requirements.txt 'pytest==8.3.5' 'pytest-xdist==3.6.1'
	touch $@
