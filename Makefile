# clinode: every target does its own set-up in .venv. `make help` lists them.
SHELL := /bin/bash
PY := .venv/bin/python
STAMP := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup check test test-long test-demo demo bench bench-dicom bench-deidentify bench-imaging bench-federation docs bundle format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): packaging/constraints.txt packaging/setup.sh pyproject.toml
	@bash packaging/setup.sh

setup: $(STAMP) ## virtual environment and Debian packages (prints the download size first)

check: $(STAMP) ## format, lint, types, import contracts, unit tests (under 3 minutes)
	@bash packaging/check.sh
	@$(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not integration and not system and not long"

test: $(STAMP) ## everything: checks, unit, property, integration and system tests with coverage
	@bash packaging/test.sh

test-long: $(STAMP) ## minutes each: a real viewer, 10,000 instances with kills, fuzzing (also installs Chromium)
	@bash packaging/setup_long.sh
	@bash packaging/test_long.sh

test-demo: $(STAMP) ## the system tests on the demonstration at its usual size (make test has a small one)
	@.venv/bin/python -m pytest -q -m long --timeout 2700 tests/system/test_demonstration.py

demo: $(STAMP) ## three hospitals, their PACS and a coordinator on this machine; DEMO="--keep" passes options
	@.venv/bin/clinode demo $(DEMO)

bench: $(STAMP) ## side-by-side measurements
	@$(PY) -m benchmarks

bench-dicom: $(STAMP) ## receivers side by side: this node, storescp, Orthanc, plain pynetdicom
	@$(PY) -m benchmarks.dicom

bench-deidentify: $(STAMP) ## de-identifiers side by side: instances per second and leaks (installs the peers)
	@$(PY) -m pip install -q -c packaging/constraints.txt -e '.[bench]'
	@$(PY) -m benchmarks.deidentification

bench-imaging: $(STAMP) ## images side by side: registration, conversion, whole studies, two workers (installs the peers); BENCH="--quick"
	@$(PY) -m pip install -q -c packaging/constraints.txt -e '.[bench]'
	@$(PY) -m benchmarks.imaging $(BENCH)

bench-federation: $(STAMP) ## federations side by side: clinode, NVFLARE, Flower, bare streams (peers in environments of their own); BENCH="--quick"
	@$(PY) -m benchmarks.federation $(BENCH)

docs: $(STAMP) ## regenerate the generated parts of docs/ (diagrams, command reference)
	@$(PY) packaging/generate_docs.py

bundle: $(STAMP) ## wheels of clinode and all it needs in one folder, for a machine without network
	@bash packaging/bundle.sh

format: $(STAMP) ## rewrite the sources in the project's format
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

clean: ## remove the virtual environment and what the tools left
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
