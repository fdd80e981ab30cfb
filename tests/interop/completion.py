"""Completion in bash, zsh and fish, of commands, options, files and the functions of a node."""

import os
import pathlib
import re
import subprocess
import tempfile

from checks import check, node_address, same

HOST, PORT = node_address()
SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "completion"
CHANRPC = pathlib.Path(os.environ["CHANRPC"]).resolve()
# What is typed, and what it becomes.
CASES = [
    ("chanrpc desc", "chanrpc describe"),
    ("chanrpc call --templ", "chanrpc call --template"),
    ("chanrpc call demo.div", "chanrpc call demo.divide"),
    ("chanrpc describe rpc.disc", "chanrpc describe rpc.discover"),
    ("chanrpc serve --config a-f", "chanrpc serve --config a-file.toml"),
]


def run(*command, folder):
    environment = os.environ | {"PATH": f"{CHANRPC.parent}:{os.environ['PATH']}", "CHANRPC_TO": f"{HOST}:{PORT}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    check(f"{command[0]} runs", done.returncode == 0, done.stdout, done.stderr)
    return done.stdout


def bash(folder):
    script = f"""source '{SCRIPTS}/chanrpc.bash'
for line in "$@"; do
    COMP_LINE=$line COMP_POINT=${{#line}} COMPREPLY=() && _chanrpc
    # As bash does with "-o default".
    ((${{#COMPREPLY[@]}})) || mapfile -t COMPREPLY < <(compgen -f -- "${{line##* }}")
    echo "${{line% *}} ${{COMPREPLY[*]}}"
done"""
    return run("bash", "-c", script, "bash", *[line for line, _ in CASES], folder=folder).splitlines()


def fish(folder):
    script = f"source '{SCRIPTS}/chanrpc.fish'; for line in $argv; complete -C $line; end"
    words = run("fish", "-N", "-c", script, *[line for line, _ in CASES], folder=folder).split()
    return [line.rsplit(" ", 1)[0] + " " + word for (line, _), word in zip(CASES, words, strict=True)]


def zsh(folder):
    """Types into an interactive shell, whose widget prints the line once it is completed."""
    script = f"""zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -Uz compinit; compinit -u -D; source {SCRIPTS}/_chanrpc
told() {{ zle complete-word; print -r -- "<<$BUFFER>>"; BUFFER=; }}; zle -N told; bindkey "^I" told; print rea""dy'
zpty -r shell line '*ready*'
for line in "$@"; do
    zpty -n -w shell "$line"$'\\t'
    zpty -r shell line '*>>*'
    print -r -- "$line"
done"""
    shown = run("zsh", "-f", "-c", script, "zsh", *[line for line, _ in CASES], folder=folder)
    return [line.strip() for line in re.findall(r"<<(.*?)>>", shown)]


with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "a-file.toml").touch()
    for shell in (bash, fish, zsh):
        same(f"{shell.__name__} completes", shell(folder), [whole for _, whole in CASES])
