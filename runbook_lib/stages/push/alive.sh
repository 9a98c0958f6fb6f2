# Given to `sh -c` inside the container with the pid file as argument; prints none, alive or dead.
[ -s "$1" ] || { echo none; exit 0; }
read -r pid started < "$1"
now=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) || now=
[ -n "$started" ] && [ "$(echo "$now" | cut -d' ' -f20)" = "$started" ] && [ "${now%% *}" != Z ] && echo alive || echo dead
