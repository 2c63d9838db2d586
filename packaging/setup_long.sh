#!/usr/bin/env bash
# What `make test-long` needs beyond `make setup`: Chromium (Debian) and the OHIF viewer (npm).
# Repeatable. The viewer goes into ${CLINODE_TEST_CACHE:-~/.cache/clinode-tests}, never into git.
set -euo pipefail
cd "$(dirname "$0")/.."

sums=$PWD/packaging/viewers.sha512
cache=${CLINODE_TEST_CACHE:-$HOME/.cache/clinode-tests}
say() { printf '%s\n' "$*"; }

as_root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "${as_root[*]:-}" = false ] || ! command -v apt-get >/dev/null; then
    say "Not installed: ${missing[*]} (needs root or passwordless sudo, and apt-get). The viewer tests skip, and fail where CI=true." >&2
  else
    say "Installing the Debian packages ${missing[*]} (Chromium: about 90 MB to download) ..."
    "${as_root[@]}" apt-get update -qq || say "  apt-get update failed; trying with the lists that are here"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
      || say "Some Debian packages could not be installed: ${missing[*]}." >&2
  fi
fi

# One line per file in viewers.sha512: its digest, and NAME-VERSION.tgz as `npm pack` names it.
while read -r digest file; do
  folder=$cache/${file%.tgz}
  if [ -f "$folder/.complete" ] && [ "$(cat "$folder/.complete")" = "$digest" ]; then
    say "The viewer is here: $folder"
    continue
  fi
  if ! command -v npm >/dev/null; then
    say "npm is not installed: $file cannot be fetched. The viewer tests skip, and fail where CI=true." >&2
    continue
  fi
  version=${file#ohif-app-}
  part=$(mktemp -d)
  trap 'rm -rf "$part"' EXIT
  say "Fetching @ohif/app ${version%.tgz} from npm (48 MB) ..."
  npm pack --silent --pack-destination "$part" "@ohif/app@${version%.tgz}" >/dev/null
  printf '%s  %s\n' "$digest" "$part/$file" | sha512sum --check --quiet --strict
  # Only the built files are needed, without the maps to their sources.
  tar -xzf "$part/$file" -C "$part" --exclude='*.map' package/dist
  mkdir -p "$cache"
  rm -rf "$folder"
  mkdir "$folder"
  mv "$part/package/dist" "$folder/dist"
  printf '%s\n' "$digest" >"$folder/.complete"
  rm -rf "$part"
  say "The viewer is here: $folder"
done <"$sums"
