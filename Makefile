# Everything runs in an environment of its own, made on first use: only Python ≥ 3.10 and make are needed.
#   make bench              a tour of the bundled benchmarks on few images, offline, in about five minutes on two cores:
#                           tables, and reports in runs/bench, its vqa, tuning and gain
#   make bench-full         the same suites at their full size: what the documentation quotes (in runs/bench-full)
#   make test, make lint    what CI runs
#   make zoo                trains the bundled models anew, and learns a patch for each (85 min on two cores)
#   make support-matrix     writes docs/support-matrix.md
#   make layers             draws docs/images/layers.png: which package imports which
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: bench bench-full test lint zoo support-matrix layers clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

bench: $(STAMP)
	$(BIN)/visprompt bench tour --out runs/bench

bench-full: $(STAMP)
	$(BIN)/visprompt bench benchmarks/scenes.yaml --out runs/bench-full
	$(BIN)/visprompt bench benchmarks/scenes-vqa.yaml --out runs/bench-full/vqa
	$(BIN)/visprompt bench benchmarks/tuning.yaml --out runs/bench-full/tuning
	$(BIN)/visprompt bench benchmarks/gain.yaml --out runs/bench-full/gain

# Workers share the cores, so each gets one thread. --pyargs: the doctests of the installed package, not of a second copy.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --doctest-modules --pyargs \
		visprompt tests $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

zoo: $(STAMP)
	$(BIN)/python -m zoo

support-matrix: $(STAMP)
	$(BIN)/python -m visprompt.testing.matrix docs/support-matrix.md

layers: $(STAMP)
	$(BIN)/python docs/draw_layers.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
