# shellcheck shell=bash
# How to build and run programs for the targets on this machine. Sourced after common.sh.

# shellcheck disable=SC2154 # common.sh sets it
tools=$target/tools
export PATH=$tools/bin:$tools/zig/bin:$tools/zig/ziglang:$PATH
# shellcheck disable=SC1091 # made by ci/setup-cross, where published images cannot be had
[[ ! -f $tools/cross/env ]] || source "$tools/cross/env"

# The label by which .ci/run finds the containers that it has started.
export CROSS_CONTAINER_OPTS="${CROSS_CONTAINER_OPTS-} --label chanrpc.steps=${CHANRPC_STEPS-}"

# Git Bash would mistake the flags for paths.
export MSYS2_ENV_CONV_EXCL=CARGO_ENCODED_RUSTFLAGS

# Where ci/build puts the release binaries, each in a folder named after its target, with -full if it has all features.
# shellcheck disable=SC2034 # the scripts that source this use it
dist=$target/dist

# The released targets whose binaries run under an emulator on this machine.
# shellcheck disable=SC2034
mapfile -t others < <(ci/matrix triples 1 | grep -v "^$(uname -m)-unknown-linux-")

engine() {
    local engine
    for engine in ${CROSS_CONTAINER_ENGINE:-docker podman}; do
        if command -v "$engine" >/dev/null && timeout 20 "$engine" info >/dev/null 2>&1; then
            echo "$engine"
            return
        fi
    done
    return 1
}

has_std() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$1")
    compgen -G "${libraries//\\//}/libstd-*" >/dev/null
}
has_sources() { [[ -f $("$1" --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock ]]; }

# For std built from source: the binary is stripped, so std needs no code to name functions in backtraces.
from_sources=(RUSTC_BOOTSTRAP=1 "CARGO_UNSTABLE_BUILD_STD=std,panic_unwind"
    "CARGO_UNSTABLE_BUILD_STD_FEATURES=panic-unwind,optimize_for_size")

# plan TRIPLE: selects the builder for the target and prints it. CHANRPC_BUILDER (cross, zigbuild or cargo) overrides
# the choice. Uses the toolchain's std if installed; with CHANRPC_STD=sources, as for a release, builds a smaller one.
plan() {
    local std rustc
    glibc=
    triple=$1
    ci/matrix get "$triple" tier >/dev/null
    builder=${CHANRPC_BUILDER:-}
    if [[ -z $builder ]]; then
        if command -v cross >/dev/null && engine >/dev/null; then
            builder=cross
        else
            builder=$(ci/matrix get "$triple" desk)
        fi
    fi
    # No environment variable may replace the flags of .cargo/config.toml.
    settings=(-u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_RUSTFLAGS "CARGO_TARGET_DIR=$target/$builder")
    case $builder in
        cross)
            engine >/dev/null || {
                echo "no container engine is running: start Docker or Podman, or leave CHANRPC_BUILDER unset" >&2
                return 1
            }
            how="cross with $(engine), image ${CROSS_STAND_IN:-of Cross.toml}"
            if [[ -z ${CROSS_STAND_IN:-} && ${CHANRPC_STD:-} == sources ]]; then
                rustup component add rust-src
                settings+=("${from_sources[@]}")
                how+=", std from its sources"
            fi
            ;;
        zigbuild | cargo)
            [[ $builder == cargo ]] || need cargo-zigbuild zig
            if [[ -n ${CHANRPC_FETCH_RUST:-} ]]; then rustup target add "$triple"; fi
            # Keeps this machine's paths out of the binary and maps the others to those inside cross.
            mapfile -t flags < <(ci/matrix flags "$triple")
            flags+=("--remap-path-prefix=$PWD=/project" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
            if [[ -z ${CHANRPC_RUSTC:-} && ${CHANRPC_STD:-} != sources ]] && has_std "$triple"; then
                std="std of the toolchain"
            else
                if [[ -n ${CHANRPC_FETCH_RUST:-} ]]; then rustup component add rust-src; fi
                for rustc in ${CHANRPC_RUSTC:-rustc /usr/bin/rustc} ""; do
                    if command -v "$rustc" >/dev/null && has_sources "$rustc"; then break; fi
                done
                [[ -n $rustc ]] || {
                    echo "no std for $triple is installed, and no Rust sources to build it from: rustup target add $triple," \
                        "or rustup component add rust-src, or on Debian 12 ci/setup-debian" >&2
                    return 1
                }
                std="std from the sources of $("$rustc" --version | cut -d' ' -f1-2)"
                flags+=("--remap-path-prefix=$("$rustc" --print sysroot)/lib/rustlib/src/rust=/rustc")
                flags+=(-C link-self-contained=no)
                settings+=("RUSTC=$rustc" "${from_sources[@]}")
            fi
            if [[ $builder == zigbuild ]]; then
                flags+=(-C link-self-contained=no)
                glibc=$(ci/matrix get "$triple" glibc)
                how="cargo zigbuild (zig $(zig version)), $std"
            else
                how="cargo, $std"
            fi
            settings+=("CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")")
            ;;
        *)
            echo "CHANRPC_BUILDER is $builder, but must be cross, zigbuild or cargo" >&2
            return 2
            ;;
    esac
    echo "$triple: by $how"
}

# planned SUBCOMMAND ARGUMENT...: runs cargo, or the planned builder in its place.
planned() {
    set -- "$1" --target "$triple${glibc:+.$glibc}" "${@:2}"
    if [[ $1 == test && " ${settings[*]} " == *" RUSTC_BOOTSTRAP=1 "* ]]; then
        settings+=("CARGO_UNSTABLE_BUILD_STD=std,panic_unwind,test")
    fi
    if [[ $1 != build && $builder != cross ]]; then
        runner "$triple"
        settings+=("CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$triple")_RUNNER=${runner[*]:-env}")
    fi
    case $builder:$1 in
        cross:*) env "${settings[@]}" cross "$@" ;;
        zigbuild:build) env "${settings[@]}" cargo-zigbuild zigbuild "${@:2}" ;;
        zigbuild:*) env "${settings[@]}" cargo-zigbuild "$@" ;;
        cargo:*) env "${settings[@]}" cargo "$@" ;;
    esac
}

# binary_of TRIPLE[-full]: prints the path of the binary that ci/build makes.
binary_of() {
    case $1 in
        *-windows-*) echo "$dist/$1/chanrpc.exe" ;;
        *) echo "$dist/$1/chanrpc" ;;
    esac
}

# runner TRIPLE[-full]: sets `runner` to the command that runs the target's programs here: nothing, an emulator or Wine.
# shellcheck disable=SC2034 # the scripts that source this use it
runner() {
    local kind
    kind=$(ci/matrix get "$1" runner)
    runner=()
    case $kind:$(uname -sm) in
        native:*" x86_64" | qemu-aarch64:"Linux aarch64" | qemu-arm:"Linux armv7l" | wine:MINGW* | wine:MSYS*) ;;
        wine:*) runner=("$PWD/targets/wine-run") ;;
        native:*)
            echo "this machine cannot run programs for $1" >&2
            return 1
            ;;
        *)
            need "$kind-static"
            runner=("$kind-static")
            ;;
    esac
}
