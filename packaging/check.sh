#!/usr/bin/env bash
# Format, lint, types and import contracts: the same for a person and for CI.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
echo "format";    "$bin/ruff" format --check --quiet .
echo "lint";      "$bin/ruff" check --quiet .
echo "types";     "$bin/mypy"
echo "contracts"; "$bin/lint-imports" --no-cache >/tmp/clinode-contracts.$$ 2>&1 || { cat /tmp/clinode-contracts.$$; rm -f /tmp/clinode-contracts.$$; exit 1; }
rm -f /tmp/clinode-contracts.$$
