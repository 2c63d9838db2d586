#!/usr/bin/env bash
# `make test-long`: the tests that take minutes each, one after another.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$(date +%s)
export PYTHONHASHSEED=0
# A test may take ten minutes unless it says otherwise itself.
.venv/bin/python -m pytest -q -m long --timeout 600 --durations 15 "$@"
echo "make test-long took $(( $(date +%s) - started )) s"
