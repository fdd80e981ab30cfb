#!/bin/sh
# Installs the chanrpc binary from a release: downloads it, verifies its checksum and copies it into a directory of the
# user's. POSIX sh with curl or wget; on Windows from Git Bash, MSYS2 or Cygwin.
{ # The group ends on the last line, so that a partially downloaded script does nothing.
repository=https://github.com/chanrpc/chanrpc

usage() {
    cat <<TEXT
Usage: install.sh [--full] [--version vX.Y.Z] [--to DIR] [--from URL]

  --full     the binary with all features: TLS, gRPC and NATS
  --version  the release to install (the latest)
  --to       the directory for the binary (~/.local/bin)
  --from     the URL of the releases, for mirrors
             ($repository/releases)

Downloads latest/download/SHA256SUMS or download/vX.Y.Z/SHA256SUMS under URL, and
the archive from download/vX.Y.Z/. Replaces an existing binary atomically; running
nodes keep running.

Exit codes: 0 success, 1 failure, 2 usage error.
TEXT
}

say() { printf '%s\n' "$*"; }
die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
misused() {
    printf 'install.sh: %s; see --help\n' "$*" >&2
    exit 2
}
has() { command -v "$1" >/dev/null 2>&1; }

# Sets $triple, $archived (the archive's extension) and $program (the binary's name).
find_target() {
    archived=tar.gz program=chanrpc
    kernel=$(uname -s)
    machine=$(uname -m)
    case $machine in
        x86_64 | amd64) arch=x86_64 ;;
        aarch64 | arm64) arch=aarch64 ;;
        *) arch= ;;
    esac
    case $kernel in
        Linux) triple=$arch-unknown-linux-musl ;;
        # Windows on ARM also runs programs for x86_64.
        MINGW* | MSYS* | CYGWIN*)
            arch=x86_64 triple=x86_64-pc-windows-gnu archived=zip program=chanrpc.exe
            ;;
        *) die "no release for $kernel; build it from $repository with 'cargo build --release --features cli'" ;;
    esac
    case $arch/$machine in
        /armv7* | /armv8*) die "no release for 32-bit ARM ($machine); build it from $repository:" \
            "'rustup target add armv7-unknown-linux-musleabihf', then 'cargo build --release --features cli --target' with this target" ;;
        /*) die "no release for $machine; build it from $repository with 'cargo build --release --features cli'" ;;
    esac
}

find_tools() {
    if has curl; then
        fetch=with_curl
    elif has wget; then
        fetch=with_wget
    else
        die "neither curl nor wget is installed; install one of them"
    fi
    if has sha256sum; then
        digest="sha256sum"
    elif has shasum; then
        digest="shasum -a 256"
    elif has openssl; then
        digest="openssl dgst -sha256 -r"
    elif has busybox && busybox sha256sum </dev/null >/dev/null 2>&1; then
        digest="busybox sha256sum"
    else
        die "no tool for SHA-256 is installed, so the download cannot be verified; install coreutils or openssl"
    fi
    case $archived in
        zip) unpack=unzip ;;
        *) unpack=tar ;;
    esac
    has $unpack || die "$unpack is missing; install it"
}

with_curl() {
    # An https address must not redirect to plain http.
    case $1 in
        https:*) set -- "$@" --proto =https ;;
    esac
    address=$1 file=$2
    shift 2
    curl -fsSL --retry 2 "$@" -o "$file" "$address"
}
with_wget() { wget -q -O "$2" "$1"; }
download() { $fetch "$1" "$2" || die "cannot download $1; is the network up, and does the release exist?"; }

# Sets $name (of the archive, without its extension), $tag and $expected from the list of checksums.
find_archive() {
    name=
    while read -r sum file _; do
        file=${file#\*}
        # shellcheck disable=SC2254 # v* is a pattern if no version is given
        case $file in
            */*) ;;
            chanrpc-${version:-v*}-"$triple$full.$archived") name=${file%".$archived"} expected=$sum ;;
        esac
    done <"$temporary/SHA256SUMS"
    [ -n "$name" ] || die "$sums lists no checksum of an archive for $triple$full, so the download cannot be" \
        "verified; try another --version"
    case $expected in
        *[!0-9a-f]*) expected= ;;
    esac
    [ ${#expected} -eq 64 ] || die "$sums is damaged: no SHA-256 precedes $name.$archived; try again later"
    tag=${name#chanrpc-}
    tag=${tag%"-$triple$full"}
}

# Sets $there, the existing part of $to.
find_directory() {
    there=$to
    until [ -e "$there" ]; do
        there=${there%/*}
        there=${there:-/}
    done
    [ -d "$there" ] || die "$there is not a directory; --to DIR selects another one"
    [ -w "$there" ] || die "cannot write in $there; --to DIR selects another directory, or run this with sudo"
}

# Leaves nothing but the binary behind, however the script ends.
temporary=''
staged=''
finish() {
    code=$?
    [ -z "$temporary" ] || rm -rf "$temporary"
    if [ -n "$staged" ]; then
        rm -f "$staged"
        [ "$there" = "$to" ] || (cd "$there" && rmdir -p "${to#"${there%/}/"}") 2>/dev/null
    fi
    exit "$code"
}

install_it() {
    temporary=$(mktemp -d) || die "cannot make a temporary directory; set TMPDIR to a directory with room"
    if [ -n "$version" ]; then
        sums=$from/download/$version/SHA256SUMS
    else
        sums=$from/latest/download/SHA256SUMS
    fi
    download "$sums" "$temporary/SHA256SUMS"
    find_archive
    download "$from/download/$tag/$name.$archived" "$temporary/archive"
    found=$($digest <"$temporary/archive") || die "cannot compute the checksum of the download"
    [ "${found%% *}" = "$expected" ] || die "$name.$archived does not match SHA256SUMS: the download broke off" \
        "or was tampered with; nothing is installed, try again"

    case $archived in
        zip) unzip -q "$temporary/archive" "$name/$program" -d "$temporary" ;;
        *) tar -xzf "$temporary/archive" -C "$temporary" "$name/$program" ;;
    esac || die "cannot unpack $name.$archived; is the disk full?"

    # Staged in the same directory and renamed, so that the binary is never incomplete and a running one stays intact.
    staged=$to/.chanrpc-$$-$program
    mkdir -p "$to" || die "cannot make the directory $to; --to DIR selects another one"
    { cp "$temporary/$name/$program" "$staged" && chmod 755 "$staged"; } || die "cannot write in $to; is the disk full?"
    said=$("$staged" --version) || die "the binary of $name does not run on this machine, and nothing is installed; is" \
        "$to mounted noexec, or the system too old?"
    mv -f "$staged" "$to/$program" || die "cannot replace $to/$program; if it is running, stop it first"
    staged=
}

advise() {
    say "installed: $said, as $to/$program"
    case :$PATH: in
        *":$to:"*)
            first=$(command -v chanrpc)
            case $first in
                "$to/chanrpc" | "$to/$program") ;;
                *) say "note: your shell finds $first before it; remove that one, or change the order in PATH" ;;
            esac
            ;;
        *)
            say "$to is not in PATH; for this shell and for the next ones:"
            say "  export PATH=\"$to:\$PATH\""
            say "  echo 'export PATH=\"$to:\$PATH\"' >>~/.profile"
            ;;
    esac
    say "next:"
    say "  chanrpc serve                 # a node on 127.0.0.1:7300 with functions to try"
    say "  chanrpc call demo.add 2 3     # from another terminal: prints 5"
    say "  to run it as a service, see $repository/blob/$tag/docs/operations.md"
}

main() {
    set -u
    unset CDPATH
    version='' to='' full='' from=$repository/releases
    while [ $# -gt 0 ]; do
        option=$1
        case $option in
            -h | --help)
                usage
                exit 0
                ;;
            --full)
                full=-full
                shift
                continue
                ;;
            --*=*)
                shift
                set -- "${option%%=*}" "${option#*=}" "$@"
                continue
                ;;
            --version | --to | --from) ;;
            *) misused "unknown option $option" ;;
        esac
        [ -n "${2:-}" ] || misused "$option needs a value"
        case $option in
            --version) version=v${2#v} ;;
            --to) to=$2 ;;
            --from) from=${2%/} ;;
        esac
        shift 2
    done
    case $version in
        *[!0-9A-Za-z.+-]*) misused "--version $version is invalid; an example is v0.1.0" ;;
    esac
    [ -n "$to" ] || to=${HOME:?is not set; --to DIR sets the directory for the binary}/.local/bin
    case $to in
        /*) ;;
        *) to=$PWD/$to ;;
    esac
    [ "$to" = / ] || to=${to%/}

    find_target
    find_tools
    find_directory
    trap finish EXIT
    trap 'exit 130' HUP INT TERM
    install_it
    advise
}

main "$@"
}
