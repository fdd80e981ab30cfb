# Sourced by the other scripts here: goes to the project's root and holds what they share.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# No script here makes rustup fetch a toolchain or a target, unless the workflow lets cross do so.
[[ -n ${CHANRPC_FETCH_RUST:-} ]] || export RUSTUP_DIST_SERVER=http://127.0.0.1:9
export CARGO_TERM_COLOR=never

# shellcheck disable=SC2034 # the scripts that source this use it
target=${CARGO_TARGET_DIR:-$PWD/target}

# The core's modules, of the library and of tests/core: what is looked at more closely than the rest.
# shellcheck disable=SC2034
core=(chan sched lanes waterfall modules)
# With these options nothing else is built.
# shellcheck disable=SC2034
core_only=(--no-default-features --features cron --lib --test core)

# step TITLE COMMAND...: a heading, the command, its time. The script ends at the first command that fails, also inside
# a function given here; a script's own `cleanup` is run at its end.
doing=
step() {
    local began=$SECONDS
    doing=$1
    printf '\n==> %s\n' "$1"
    "${@:2}"
    doing=
    printf '==> %s: %d s\n' "$1" $((SECONDS - began))
}
at_end() {
    local code=$?
    set +e
    if [[ -n $doing ]]; then printf '==> %s: FAILED with exit code %d\n' "$doing" "$code" >&2; fi
    if declare -F cleanup >/dev/null; then cleanup; fi
    exit "$code"
}
trap at_end EXIT

# need TOOL...: fails with advice if one is missing.
need() {
    local tool
    for tool in "$@"; do
        if ! command -v "$tool" >/dev/null; then
            echo "$tool is missing; on Debian, ci/setup-debian installs what the checks need (but not Rust)" >&2
            exit 1
        fi
    done
}

release_build() { cargo build --release --locked --bin chanrpc; }

# The binary that is released for this machine, which is what the checks of binaries look at; .ci/run has a step for it.
# shellcheck disable=SC2034
shipped=$target/dist/$(uname -m)-unknown-linux-musl/chanrpc
shipped_build() { [[ -n ${CHANRPC_STEPS-} ]] || ci/build "$(uname -m)-unknown-linux-musl"; }

# tests_ran PATTERN... -- COMMAND...: runs tests. For each pattern (extended, from a name's beginning) at least one test
# must have passed: a filter that nothing matches is a failure here.
tests_ran() {
    local patterns=() pattern passed log
    while [[ $1 != -- ]]; do
        patterns+=("$1")
        shift
    done
    shift
    mkdir -p "$target"
    log=$(mktemp "$target/tests.XXXXXX")
    "$@" </dev/null | tee "$log"
    for pattern in "${patterns[@]}"; do
        passed=$(grep -cE "^test $pattern.* \.\.\. ok$" "$log" || true)
        echo "$passed tests of $pattern passed"
        ((passed > 0)) || {
            echo "no test has a name that begins with $pattern" >&2
            return 1
        }
    done
    rm "$log"
}

# For tests of scripts, which make a directory for themselves first.
work=
ok() { echo "ok      $*"; }
fail() {
    echo "FAILED  $*; the last output was:" >&2
    sed 's/^/    /' "$work/said" >&2
    exit 1
}
# expect CODE COMMAND...: the command's exit code; what it says is kept for `said`.
expect() {
    local expected=$1 code=0
    shift
    "$@" >"$work/said" 2>&1 </dev/null || code=$?
    ((code == expected)) || fail "exit code $code, not $expected, from: $*"
}
said() { grep -qF -- "$1" "$work/said" || fail "no word of '$1'"; }
