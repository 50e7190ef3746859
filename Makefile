# make demo   sets everything up and detects people on the shipped images
# make test   sets everything up and runs the tests
# make docs   writes docs/cli.md anew from the parsers of the scripts
# make format / make bench / make clean

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
SOURCES := $(wildcard *.py) models utils escalator benchmarks deploy tests docs/make_cli.py
WEIGHTS := weights/yolov5s6_pose
TRACKEVAL := trackeval==1.3.0
STUBS  := tensorrt-stubs==10.13.0.35.1
# A Python 3.8, if this machine has one, also runs the tests that need no torch.
PY38   ?= $(shell for p in python3.8 $(HOME)/.pyenv/versions/3.8*/bin/python3.8; do \
                    "$$p" -c '' 2>/dev/null && echo "$$p" && break; done)

.PHONY: demo test test-py38 lint format docs bench clean

demo: $(VENV)/.installed
	$(PY) models/export_onnx.py --weights $(WEIGHTS).pt --img-size 640 --simplify
	$(PY) detect_multi_backend.py --weights $(WEIGHTS).onnx --source data/images --device cpu --conf-thres 0.5

test: $(VENV)/.installed-dev lint
	$(PY) -m pytest -n 2
ifneq ($(PY38),)
	$(MAKE) test-py38
else
	@echo "no Python 3.8 on this machine: its part of the tests was not run"
endif

test-py38: .venv38/.installed
	.venv38/bin/python -m pytest -n 2 -p no:cacheprovider

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

docs: $(VENV)/.installed
	$(PY) docs/make_cli.py

bench: $(VENV)/.installed
	$(PY) models/export_onnx.py --weights $(WEIGHTS).pt --img-size 640 --simplify
	$(PY) benchmarks/graph.py
	$(PY) benchmarks/pipeline.py
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/escalator.py

clean:
	rm -rf $(VENV) .venv38 runs .pytest_cache .ruff_cache

$(VENV)/.installed: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
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
	sed '/torch/d; /onnxsim/d' requirements.txt >.venv38/requirements.txt
	.venv38/bin/python -m pip install -q --disable-pip-version-check -r .venv38/requirements.txt 'pytest==8.3.5' 'pytest-xdist==3.6.1'
	touch $@
