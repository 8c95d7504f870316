#!/bin/sh
# Installs signalman: downloads the binary of this machine, checks its sum, and puts it in place. Nothing runs before the check.
#   SIGNALMAN_RELEASES  folder with the binaries and SHA256SUMS   (default: where this script came from)
#   SIGNALMAN_BIN       folder to install into                    (default: ~/.local/bin)
set -eu
releases="${SIGNALMAN_RELEASES:-@RELEASES@}"
folder="${SIGNALMAN_BIN:-$HOME/.local/bin}"

case "$(uname -s)" in
  Linux) os=linux ;;
  Darwin) os=darwin ;;
  *) echo "There is no binary for $(uname -s). On Windows, download signalman-windows-x64.exe." >&2; exit 1 ;;
esac
case "$(uname -m)" in
  x86_64 | amd64) arch=x64 ;;
  aarch64 | arm64) arch=arm64 ;;
  *) echo "There is no binary for $(uname -m)." >&2; exit 1 ;;
esac
if [ "$os" = linux ] && ldd /bin/sh 2>&1 | grep -q musl; then
  echo "signalman needs glibc 2.34 or newer; this system has musl." >&2
  exit 1
fi

name="signalman-$os-$arch"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
curl -fsSL -o "$work/SHA256SUMS" "$releases/SHA256SUMS"
curl -fSL --progress-bar -o "$work/$name" "$releases/$name"
grep -F "  $name" "$work/SHA256SUMS" | grep -E "^[0-9a-f]{64}  $name\$" >"$work/sum" || {
  echo "The release has no sum for $name." >&2
  exit 1
}
(cd "$work" && if command -v sha256sum >/dev/null; then sha256sum -c sum; else shasum -a 256 -c sum; fi) >&2 || {
  echo "The download is not what the release says. Nothing was installed." >&2
  exit 1
}
mkdir -p "$folder"
chmod 755 "$work/$name"
mv "$work/$name" "$folder/signalman"
"$folder/signalman" --version
case ":$PATH:" in *":$folder:"*) ;; *) echo "Add $folder to your PATH." ;; esac
