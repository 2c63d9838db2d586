#!/usr/bin/env bash
# Set-up of a checkout: virtual environment in .venv, pinned packages, Debian programs.
# Repeatable; leaves no PACS service running that was not there before.
set -euo pipefail
cd "$(dirname "$0")/.."

debian_packages=(orthanc orthanc-dicomweb dcmtk dicom3tools dcm2niix tinyproxy)
say() { printf '%s\n' "$*"; }

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  say "clinode needs Python 3.11 or later; $("$python" --version 2>&1 || echo "no python3") was found. Set PYTHON=/path/to/python3.11." >&2
  exit 2
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  say "Python's venv module is missing: install it (Debian, Ubuntu: apt-get install python3-venv)." >&2
  exit 2
fi

missing=()
if command -v dpkg-query >/dev/null; then
  for package in "${debian_packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

say "Downloads of this set-up:"
.venv/bin/python packaging/download_size.py packaging/download-sizes.tsv || true
if [ ${#missing[@]} -gt 0 ]; then
  if [ "${as_root[*]:-}" = false ]; then
    say "  Debian packages ${missing[*]}: not installed (needs root or passwordless sudo)."
    say "  Without Orthanc the demo uses the embedded PACS; the tests that need the missing programs skip (and fail where CI=true)."
  elif command -v apt-get >/dev/null; then
    "${as_root[@]}" apt-get update -qq || say "  apt-get update failed; trying with the lists that are here"
    size=$("${as_root[@]}" apt-get install -s --no-install-recommends "${missing[@]}" -o Debug::NoLocking=1 2>/dev/null | grep -c '^Inst' || true)
    need=$("${as_root[@]}" apt-get install --assume-no --no-install-recommends "${missing[@]}" 2>/dev/null | grep -i 'need to get' || true)
    say "  Debian packages ${missing[*]} (${size} with what they need): ${need:-size unknown}"
  fi
fi

install_debian() {
  local had_orthanc=no policy=/usr/sbin/policy-rc.d made_policy=no
  pgrep -x Orthanc >/dev/null 2>&1 && had_orthanc=yes
  if [ ! -e "$policy" ]; then
    # Debian starts a service at installation unless this file forbids it (invoke-rc.d(8)).
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    made_policy=yes
  fi
  local status=0
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || status=$?
  [ $made_policy = no ] || "${as_root[@]}" rm -f "$policy"
  # Nor may they start at the next boot: tests and demo have their own configuration and ports.
  local service
  for service in orthanc tinyproxy; do
    [[ " ${missing[*]} " == *" $service "* ]] || continue
    [ $service = orthanc ] && [ $had_orthanc = yes ] && continue
    if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
      "${as_root[@]}" systemctl disable --now $service >/dev/null 2>&1 || true
    elif command -v update-rc.d >/dev/null; then
      "${as_root[@]}" update-rc.d $service disable >/dev/null 2>&1 || true
    fi
  done
  return $status
}
if [ ${#missing[@]} -gt 0 ] && [ "${as_root[*]:-}" != false ] && command -v apt-get >/dev/null; then
  install_debian || say "Some Debian packages could not be installed: ${missing[*]}. The demo can use the embedded PACS." >&2
fi

say "Installing the Python packages into .venv ..."
pip install -q -c packaging/constraints.txt "setuptools>=75" wheel
pip install -q -c packaging/constraints.txt "torch==2.13.0"
pip install -q -c packaging/constraints.txt --no-build-isolation -e '.[dev]'
touch .venv/.ready
say "Ready: .venv/bin/clinode --help"
