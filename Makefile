# Nothing but python3 (>= 3.10), pip and make is needed: every target makes its own environment first.
#   make demo                       a small network on digits, predicted and actual gap per epoch
#   make test                       the tests
#   make test TORCH="torch==2.13.0" with a torch requirement of your choice
PYTHON ?= python3
TORCH ?= torch>=2.4
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint types check table predictor benchmarks clean

demo: $(VENV)/ready
	$(RUN) -m lightning_gengap demo

test: $(VENV)/ready
	$(RUN) -m pytest -n 2

lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/ready
	$(RUN) -m mypy

check: test lint types

# Slow studies. ZOO_DATA is a folder of <source>_<split>_{images,labels}.npy.
ZOO_TASKS ?= 50
predictor: $(VENV)/ready
	$(RUN) -m lightning_gengap zoo run --tasks $(ZOO_TASKS) $(if $(ZOO_DATA),--data $(ZOO_DATA)) --out runs/zoo
	rm -f runs/zoo.csv.gz runs/default.json
	$(RUN) -m lightning_gengap zoo table runs/zoo --out runs/zoo.csv.gz
	$(RUN) -m lightning_gengap zoo fit runs/zoo.csv.gz --out runs/default.json

benchmarks: $(VENV)/ready
	$(RUN) benchmarks/margins.py
	$(RUN) benchmarks/overhead.py $(if $(ZOO_DATA),--data $(ZOO_DATA))
	$(RUN) benchmarks/features.py

# Debian ships venv without ensurepip: then virtualenv, which carries its own pip, is fetched into a private folder.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && \
		$(PYTHON) -m pip install --quiet --target .venv-bootstrap virtualenv && \
		PYTHONPATH=.venv-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV); }
	$(RUN) -m pip install --quiet "$(TORCH)"
	$(RUN) -m pip install --quiet --editable ".[dev,wandb]"
	touch $@

clean:
	rm -rf $(VENV) .venv-bootstrap build dist *.egg-info
