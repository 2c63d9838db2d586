#!/usr/bin/env bash
# What `make test-long` needs beyond `make setup`: Chromium, libfaketime, ip (Debian), viewers (npm).
# Repeatable. The viewers go into ${CLINODE_TEST_CACHE:-~/.cache/clinode-tests}, never into git.
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
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || missing+=(libfaketime)
command -v ip >/dev/null || missing+=(iproute2)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "${as_root[*]:-}" = false ] || ! command -v apt-get >/dev/null; then
    say "Not installed: ${missing[*]} (needs root or passwordless sudo, and apt-get). The tests that need them skip, and those of the viewers fail where CI=true." >&2
  else
    say "Installing the Debian packages ${missing[*]} (Chromium: about 90 MB to download) ..."
    "${as_root[@]}" apt-get update -qq || say "  apt-get update failed; trying with the lists that are here"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
      || say "Some Debian packages could not be installed: ${missing[*]}." >&2
  fi
fi

fetch() { # digest name@version folder
  local digest=$1 package=$2 folder=$3 part file
  part=$(mktemp -d)
  say "Fetching $package from npm ..."
  if ! npm pack --silent --pack-destination "$part" "$package" >/dev/null; then
    rm -rf "$part"
    say "$package could not be fetched from npm." >&2
    return 1
  fi
  file=$(echo "$part"/*.tgz)
  if ! printf '%s  %s\n' "$digest" "$file" | sha512sum --check --quiet --strict; then
    rm -rf "$part"
    say "$package is not the file that packaging/viewers.sha512 names: it is not used." >&2
    return 1
  fi
  tar -xzf "$file" -C "$part" --exclude='*.map' --exclude='package/node_modules'
  mkdir -p "$cache"
  rm -rf "$folder"
  mv "$part/package" "$folder"
  printf '%s\n' "$digest" >"$folder/.complete"
  rm -rf "$part"
}

failed=0
while read -r digest package; do
  case $digest in '#'*) continue ;; esac
  name=${package#@}
  name=${name//\//-}
  folder=$cache/${name%@*}-${name##*@}
  if [ -f "$folder/.complete" ] && [ "$(cat "$folder/.complete")" = "$digest" ]; then
    continue
  fi
  if ! command -v npm >/dev/null; then
    say "npm is not installed: $package cannot be fetched. The viewer tests skip, and fail where CI=true." >&2
    continue
  fi
  fetch "$digest" "$package" "$folder" || failed=1
done <"$sums"
[ $failed = 0 ] && say "The viewers for the tests are in $cache"
exit $failed
