#!/bin/bash
# Written by ascend-runbook. Runs inside the container with the service folder as its argument; stops the daemon
# that start.sh recorded, and only that.
cd "${1:?the service folder}" || exit 1
[ -s daemon.pid ] || exit 0
read -r pid started < daemon.pid
same() { # a zombie has ended already
    now=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null)
    [ -n "$started" ] && [ "${now%% *}" != Z ] && [ "$(echo "$now" | cut -d' ' -f20)" = "$started" ]
}
if same; then
    kill -TERM "$pid"
    for _ in $(seq 300); do
        same || break
        sleep 0.2
    done
    if same; then kill -KILL "$pid"; fi
fi
rm -f daemon.pid
