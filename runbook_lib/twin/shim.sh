#!/bin/bash
# Stand-in for a tool of the emulated server: asks the twin's resident process and says what that answers.
LC_ALL=C
read -r address port node token <@HOME@/link
if ! { exec 3<>"/dev/tcp/$address/$port"; } 2>/dev/null; then
    echo "${0##*/}: the emulated cluster is down (runbook twin up PARAMS)" >&2
    exit 125
fi
{
    printf '%s\0' tool "$token" "$node" "$TWIN_CONTAINER" "$$" "$PWD" "$(($# + 1))" "${0##*/}" "$@"
    case ${0##*/} in docker | mpirun | *_test) env -0 ;; esac # nobody else asks for the environment
    printf '\0'
} >&3
if ! read -r kind code errors output <&3; then
    echo "${0##*/}: the emulated cluster went down" >&2
    exit 125
fi
if [ "$kind" = exec ]; then
    mapfile -d '' -t argv <&3
    exec 3>&-
    exec "${argv[@]}"
fi
if [ "$kind" = text ]; then # short and without NUL: a program of its own costs more than the shell's slow read
    if [ "$errors" -gt 0 ]; then IFS= read -r -N "$errors" said <&3 && printf %s "$said" >&2; fi
    if [ "$output" -gt 0 ]; then IFS= read -r -N "$output" said <&3 && printf %s "$said"; fi
    exit "$code"
fi
if [ "$errors" -gt 0 ]; then head -c "$errors" <&3 >&2; fi
if [ "$output" -gt 0 ]; then head -c "$output" <&3; fi
exit "$code"
