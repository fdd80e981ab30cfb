# Sourced by .ci/run. Runs the steps of the table ci/steps, each when the steps that it needs have passed, at most one
# more at a time than there are processors (CHANRPC_JOBS). The output of a step goes to target/steps/NAME.log and is
# shown as a whole when the step ends. The first failure ends the run, unless keep_going is set: then only the steps
# that depend on it are skipped. No process started here is left behind.
# shellcheck shell=bash

# shellcheck disable=SC2154 # common.sh sets it
logs=$target/steps
at_once=${CHANRPC_JOBS:-$(($(nproc) + 1))}
declare -A command=() lane=() needs=() state=() began=() took=()
# Indexed by process id.
declare -A running=()
order=() chosen='' failed=''
keep_going=
# Marks all started processes, to find those that have left their step's process group.
mark=$$.$(date +%s)

# read_steps push|night [GROUP]...: reads the steps of the given groups and those that they need, or all steps.
read_steps() {
    local mode=$1 name when in of after line need i all=()
    local -A group=() wanted=()
    shift
    while read -r name when in of after line; do
        [[ $when == every || $when == "$mode" ]] || continue
        all+=("$name")
        command[$name]=$line lane[$name]=$in group[$name]=$of
        needs[$name]=${after//,/ }
        [[ $after != - ]] || needs[$name]=
    done < <(grep -v '^#' ci/steps)
    for ((i = ${#all[@]} - 1; i >= 0; i--)); do
        name=${all[i]}
        (($# == 0)) || [[ " $* " == *" ${group[$name]} "* || -n ${wanted[$name]-} ]] || continue
        order=("$name" ${order[@]+"${order[@]}"})
        for need in ${needs[$name]}; do wanted[$need]=yes; done
    done
    ((${#order[@]} > 0)) || {
        echo "no step of ci/steps belongs to a group $*; groups are: $(printf '%s\n' "${group[@]}" | sort -u | tr '\n' ' ')" >&2
        return 2
    }
}

is_ready() { # NAME
    local need
    [[ -z ${state[$1]-} ]] || return 1
    for need in ${needs[$1]}; do [[ ${state[$need]-} == passed ]] || return 1; done
}
# Prints the first step that is ready, preferring a lane in which nothing runs.
choose() {
    local name busy=
    for name in ${running[@]+"${running[@]}"}; do busy+=" ${lane[$name]}"; done
    chosen=
    for name in "${order[@]}"; do
        is_ready "$name" || continue
        chosen=${chosen:-$name}
        if [[ $busy != *"${lane[$name]}"* ]]; then
            chosen=$name
            break
        fi
    done
    [[ -n $chosen ]]
}
begin() { # NAME
    state[$1]=running began[$1]=$SECONDS
    printf -- '--> %s: %s\n' "$1" "${command[$1]}"
    # In its own process group.
    set -m
    {
        TIMEFORMAT='%U %S'
        # shellcheck disable=SC2086 # a command and its words
        time env CHANRPC_STEPS="$mark" ${command[$1]} </dev/null >"$logs/$1.log" 2>&1
    } 2>"$logs/$1.times" &
    set +m
    running[$!]=$1
}
show() { # NAME
    printf '\n==> %s\n' "$1"
    cat "$logs/$1.log"
    printf '==> %s: %s, %d s\n\n' "$1" "${state[$1]}" "${took[$1]}"
}
ended() { # PROCESS CODE
    local name=${running[$1]}
    unset "running[$1]"
    took[$name]=$((SECONDS - began[$name])) state[$name]=passed
    if (($2 == 0)); then
        show "$name"
    else
        state[$name]="FAILED with exit code $2"
        failed+=" $name"
        return 1
    fi
}
run_steps() {
    local process code
    rm -rf "$logs"
    mkdir -p "$logs"
    while :; do
        while ((${#running[@]} < at_once)) && choose; do begin "$chosen"; done
        ((${#running[@]} > 0)) || break
        code=0
        wait -n -p process "${!running[@]}" || code=$?
        ended "$process" "$code" || [[ -n $keep_going ]] || return 1
    done
    [[ -z $failed ]]
}

# The processor time, without what ran in a container.
cpu_of() { awk '{ cpu = $1 + $2 } END { print int(cpu) }' "$logs/$1.times"; }
table() {
    local name
    printf '\n%-14s %6s %6s %6s\n' step began took cpu
    for name in "${order[@]}"; do
        [[ -n ${began[$name]-} ]] || continue
        printf '%-14s %4d s %4d s %4d s  %s\n' "$name" "${began[$name]}" "${took[$name]:-$((SECONDS - began[$name]))}" \
            "$(cpu_of "$name")" "${state[$name]}"
    done
}
strays() { grep -lszxF "CHANRPC_STEPS=$mark" /proc/[0-9]*/environ | cut -d / -f 3; }
cleanup() {
    local process engine containers
    # Run only once.
    trap '' INT TERM
    for process in "${!running[@]}"; do
        state[${running[$process]}]="ended, see $logs/${running[$process]}.log"
        kill -TERM -- "-$process" 2>/dev/null
    done
    strays | xargs -r kill -TERM 2>/dev/null
    for _ in {1..50}; do
        [[ -n $(strays) ]] || break
        sleep 0.1
    done
    for process in "${!running[@]}"; do kill -KILL -- "-$process"; done 2>/dev/null
    strays | xargs -r kill -KILL 2>/dev/null
    # A process in a container has another parent.
    for engine in docker podman; do
        command -v $engine >/dev/null || continue
        containers=$(timeout 20 $engine ps --quiet --filter "label=chanrpc.steps=$mark" 2>/dev/null)
        [[ -z $containers ]] || xargs $engine kill >/dev/null <<<"$containers"
    done
    for process in $failed; do show "$process" >&2; done
    table
    # shellcheck disable=SC2154 # at_end sets it
    ((code != 0)) || printf '\nall checks passed in %d s\n' "$SECONDS"
}
trap 'exit 130' INT
trap 'exit 143' TERM
