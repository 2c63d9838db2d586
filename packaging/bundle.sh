#!/usr/bin/env bash
# Wheels of clinode and everything it needs in one folder, for a machine without network:
#   python3 -m venv /opt/clinode && /opt/clinode/bin/pip install --no-index -f WHEELS clinode
set -euo pipefail
cd "$(dirname "$0")/.."
out=dist/wheels
mkdir -p "$out"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip wheel -q --no-deps --no-build-isolation -w "$out" .
pip download -q -d "$out" -c packaging/constraints.txt "torch==2.13.0" .
rm -f "$out"/clinode-*.tar.gz
(cd "$out" && sha256sum -- *.whl >SHA256SUMS)
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1)"
