#!/usr/bin/env bash
# `make test`: checks, then every test but the long ones, with branch coverage over subprocesses.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
started=$(date +%s)
bash packaging/check.sh
export COVERAGE_FILE="$PWD/.coverage"
rm -f .coverage .coverage.*
export PYTHONHASHSEED=0
# Three workers on two cores: some tests wait for peers and deadlines. The order is tests/conftest.py's.
"$bin/coverage" run -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not system and not long"
echo "unit and integration tests took $(( $(date +%s) - started )) s"
# A small demonstration runs as its users run it: without measuring, on all cores. The one of the
# usual size is `make test-demo`.
"$bin/python" -m pytest -q -m "system and not long"
"$bin/coverage" combine --quiet
"$bin/coverage" report --skip-covered --skip-empty --sort=cover --fail-under=85
echo "make test took $(( $(date +%s) - started )) s"
