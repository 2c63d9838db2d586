#!/usr/bin/env bash
# Regenerate the protobuf stubs; a test compares them with what is committed.
# usage: generate_stubs.sh [OUT_DIR]      (default: in place)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
for proto in appliance/control/node.proto federation/wire/*.proto; do
  [ -e "$proto" ] || continue
  .venv/bin/python -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" \
    --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" --plugin=protoc-gen-mypy=.venv/bin/protoc-gen-mypy \
    --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc "$proto"
done
