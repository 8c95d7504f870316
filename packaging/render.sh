#!/bin/sh
# render.sh FOLDER HOMEPAGE VERSION (and SIGNALMAN_RELEASE_KEY, the public key that signs): fills the templates for the release in FOLDER, whose SHA256SUMS must be there already.
set -eu
folder="$1" homepage="$2" version="$3"
here="$(dirname "$0")"
sed "s|@RELEASES@|$homepage/releases/latest/download|;s|@KEY@|${SIGNALMAN_RELEASE_KEY:-}|" "$here/install.sh" >"$folder/install.sh"
{
  printf 's|@HOMEPAGE@|%s|;s|@VERSION@|%s|;s|@RELEASES@|%s/releases/download/v%s|\n' "$homepage" "$version" "$homepage" "$version"
  sed -E 's/^([0-9a-f]{64})  (.*)$/s|@SUM:\2@|\1|/' "$folder/SHA256SUMS"
} >"$folder/.render"
sed -f "$folder/.render" "$here/signalman.rb" | sed 1d >"$folder/signalman.rb"
rm "$folder/.render"
if grep -n '@[A-Z]*[@:]' "$folder/signalman.rb" "$folder/install.sh"; then exit 1; fi
