#!/bin/sh
# Ties a server to the process that started it.
#
#   supervise.sh [--pid-file FILE] [--remove DIR] [-- COMMAND ARG...]
#
# Runs COMMAND and ends it as soon as our own standard input reaches end of file. Whoever holds the writing end needs
# to do nothing for that: the kernel closes it however the holder ends, by SIGKILL too. PostgreSQL is told by SIGQUIT,
# which ends its backends and frees its shared memory, and killed only if that takes too long. If COMMAND ends by
# itself, so do we, with the same exit status.
#
# With --remove, DIR is deleted once standard input has ended. Without COMMAND that is all it does.
set -u
# A Ctrl-C at the terminal is for the program that owns the servers: it may still need them to clean up.
trap '' INT HUP

pid_file='' remove=''
while [ $# -gt 0 ]; do
    case $1 in
    --pid-file) pid_file=$2; shift 2 ;;
    --remove) remove=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "supervise.sh: unknown argument $1" >&2; exit 2 ;;
    esac
done
exec 3<&0 </dev/null

# A server that is still dying may write into the folder while it is deleted.
remove_folder() {
    [ -n "$remove" ] || return 0
    tries=0
    until rm -rf "$remove" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 400 ] || { echo "supervise.sh: cannot delete $remove" >&2; return 1; }
        sleep 0.05
    done
}

if [ $# -eq 0 ]; then
    cat <&3 >/dev/null
    remove_folder
    exit
fi

# A shell without job control starts background commands with SIGINT and SIGQUIT ignored.
env --default-signal=HUP,INT,QUIT "$@" 3<&- &
server=$!
if [ -n "$pid_file" ]; then
    # A reader polls for the file, so it must never see half of it.
    printf '%s\n' "$server" >"$pid_file.new" && mv "$pid_file.new" "$pid_file"
fi
(
    cat <&3 >/dev/null
    kill -QUIT "$server"
    tries=0
    while [ $tries -lt 100 ] && kill -0 "$server"; do
        tries=$((tries + 1))
        sleep 0.05
    done
    kill -KILL "$server"
) 2>/dev/null &
exec 3<&-

wait "$server"
status=$?
# The watcher and its cat, which share our process group.
trap '' TERM
kill -TERM 0
remove_folder
exit "$status"
