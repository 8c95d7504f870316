#!/bin/sh
# Installs signalman: downloads the binary of this machine, checks signature and sum, and puts it in place. Nothing runs before the check.
#   SIGNALMAN_RELEASES  folder with the binaries and SHA256SUMS   (default: where this script came from)
#   SIGNALMAN_BIN       folder to install into                    (default: ~/.local/bin)
set -eu
releases="${SIGNALMAN_RELEASES:-@RELEASES@}"
key="@KEY@" # of minisign
case "$key" in RW*) ;; *) key="" ;; esac
folder="${SIGNALMAN_BIN:-$HOME/.local/bin}"
die() { echo "$1" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
fetch() { curl -fsSL --proto '=https,http' --proto-redir '=https' -o "$work/$1" "$releases/$1"; }
# Prints the line of the list for a name, which is nothing but a sum and that name.
sum_of() { grep -F "  $1" "$work/SHA256SUMS" | grep -E "^[0-9a-f]{64}  $1\$"; }
check() {
  sum_of "$1" >"$work/sum" || die "The release has no sum for $1."
  (cd "$work" && if has sha256sum; then sha256sum -c sum; else shasum -a 256 -c sum; fi) >&2 ||
    die "The download is not what the release says. Nothing was installed."
}

case "$releases" in
  *@*) die "Cannot install from an address with a name and a password in it." ;;
  https://* | http://127.0.0.1:* | http://localhost:*) ;;
  *) die "Cannot install from $releases: it is not https." ;;
esac
case "$(uname -s)" in
  Linux) os=linux ;;
  Darwin) os=darwin ;;
  *) die "There is no binary for $(uname -s). On Windows, download signalman-windows-x64.exe." ;;
esac
case "$(uname -m)" in
  x86_64 | amd64) arch=x64 ;;
  aarch64 | arm64) arch=arm64 ;;
  *) die "There is no binary for $(uname -m)." ;;
esac
if [ "$os" = linux ] && ldd /bin/sh 2>&1 | grep -q musl; then
  die "signalman needs glibc 2.34 or newer; this system has musl."
fi

name="signalman-$os-$arch"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
fetch SHA256SUMS
if [ -n "$key" ] && has minisign; then
  fetch SHA256SUMS.minisig
  minisign -Vqm "$work/SHA256SUMS" -P "$key" || die "The list of sums is not signed by the maintainer. Nothing was installed."
fi
if has zstd && sum_of "$name.zst" >/dev/null; then
  fetch "$name.zst"
  check "$name.zst"
  zstd -dq "$work/$name.zst" -o "$work/$name"
else
  fetch "$name"
fi
check "$name"
# It is put beside the old one, where nothing that lies there already is followed; it must start, and not be older, before it takes the place.
fresh="$folder/.signalman.new"
trap 'rm -rf "$work" "$fresh"' EXIT
mkdir -p "$folder"
rm -rf "$fresh"
mv "$work/$name" "$fresh"
chmod 755 "$fresh"
bounded="$(command -v timeout || true)"
version_of() { [ ! -x "$1" ] || ${bounded:+"$bounded" 20} "$1" --version 2>/dev/null | sed -n 's/^signalman \([0-9.]*\).*/\1/p'; }
new="$(version_of "$fresh")" old="$(version_of "$folder/signalman")"
[ -n "$new" ] || die "The new binary does not start here. Nothing was installed."
[ ! -d "$folder/signalman" ] || die "$folder/signalman is a folder. Nothing was installed."
newest="$(printf '%s\n' "$old" "$new" | sort -t. -k1,1n -k2,2n -k3,3n | tail -n 1)"
if [ "$newest" != "$new" ] && [ "${1:-}" != --force ]; then
  die "The release is older than what is there: $new, not $old. Nothing was installed. Add --force (sh -s -- --force) to go back to it."
fi
mv -f "$fresh" "$folder/signalman"
"$folder/signalman" --version

# Manual and completions, where a user's own are looked for; without them the program works as well.
share="${XDG_DATA_HOME:-$HOME/.local/share}"
extra() { mkdir -p "$(dirname "$1")" && "$folder/signalman" $2 >"$1"; }
extra "$share/man/man1/signalman.1" man || :
extra "$share/bash-completion/completions/signalman" "completions bash" || :
if has fish; then extra "$share/fish/vendor_completions.d/signalman.fish" "completions fish" || :; fi
case ":$PATH:" in *":$folder:"*) ;; *) echo "Add $folder to your PATH." ;; esac
echo "Next: signalman"
