_chanrpc() {
    local words
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:COMP_POINT-1:1} == ' ' ]] && words+=('')
    mapfile -t COMPREPLY < <("${words[0]}" complete --words -- "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _chanrpc chanrpc
