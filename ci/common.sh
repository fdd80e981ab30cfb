# Sourced by the other scripts here. Changes to the project's root and defines what they share.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# No script here makes rustup download a toolchain or a target, unless the workflow allows it for cross.
[[ -n ${CHANRPC_FETCH_RUST:-} ]] || export RUSTUP_DIST_SERVER=http://127.0.0.1:9
export CARGO_TERM_COLOR=never

# shellcheck disable=SC2034 # the scripts that source this use it
target=${CARGO_TARGET_DIR:-$PWD/target}

# The core's modules of the library and of tests/core, which get additional checks.
# shellcheck disable=SC2034
core=(chan sched lanes waterfall modules)
# Compiler flags and options that build nothing but the core.
# shellcheck disable=SC2034
core_flags="--cfg chanrpc_core" core_only=(--no-default-features --features cron --lib --test core)

# step TITLE COMMAND...: prints a heading, runs the command and prints its duration. The script ends at the first
# command that fails, also inside a function given here. On exit, the script's own `cleanup` runs.
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

# need TOOL...: fails with advice if a tool is missing.
need() {
    local tool
    for tool in "$@"; do
        if ! command -v "$tool" >/dev/null; then
            echo "$tool is missing; on Debian, ci/setup-debian installs what the checks need (but not Rust)" >&2
            exit 1
        fi
    done
}

release_build() { cargo build --release --locked --features cli; }

# The release binary for this machine, which the checks of binaries use; a step of .ci/run builds it.
# shellcheck disable=SC2034
shipped=$target/dist/$(uname -m)-unknown-linux-musl/chanrpc
shipped_build() { [[ -n ${CHANRPC_STEPS-} ]] || ci/build "$(uname -m)-unknown-linux-musl"; }

# tests_ran PATTERN... -- COMMAND...: runs tests. For each pattern (an extended regular expression, anchored at the
# start of the name) at least one test must have passed, so a filter that matches nothing fails.
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
            echo "no test name begins with $pattern" >&2
            return 1
        }
    done
    rm "$log"
}

# Helpers for tests of scripts. The test sets `work` to a temporary directory first.
work=
ok() { echo "ok      $*"; }
fail() {
    echo "FAILED  $*; the last output was:" >&2
    sed 's/^/    /' "$work/said" >&2
    exit 1
}
# expect CODE COMMAND...: runs the command and checks its exit code; keeps its output for `said`.
expect() {
    local expected=$1 code=0
    shift
    "$@" >"$work/said" 2>&1 </dev/null || code=$?
    ((code == expected)) || fail "exit code $code, not $expected, from: $*"
}
said() { grep -qF -- "$1" "$work/said" || fail "the output does not contain '$1'"; }
