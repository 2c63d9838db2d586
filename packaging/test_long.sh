#!/usr/bin/env bash
# `make test-long`: the tests that take minutes each; arguments go to pytest in place of the two runs.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$(date +%s)
export PYTHONHASHSEED=0
# A test may take ten minutes unless it says otherwise itself.
long() { .venv/bin/python -m pytest -q -m long --timeout 600 --durations 15 "$@"; }
if [ $# -gt 0 ]; then
  long "$@"
else
  long -n 2 --dist loadfile --ignore tests/viewer --ignore tests/system/test_demonstration.py
  long tests/viewer # a browser draws on all cores: alone
  echo "not here: the demonstration at its usual size, 13 minutes by itself: make test-demo"
fi
echo "make test-long took $(( $(date +%s) - started )) s"
