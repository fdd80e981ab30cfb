complete -c chanrpc -a '(chanrpc complete --words -- (commandline -opc)[2..] (commandline -ct))'
