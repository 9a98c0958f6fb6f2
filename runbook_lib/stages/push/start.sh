#!/bin/bash
# Written by ascend-runbook. Runs inside the container with the service folder as its argument; starts the daemon.
service=${1:?the service folder}
cd "$service" || exit 1

# pid and start time name this process for ever, see stop.sh; written first, so that any end is seen as one
echo "$$ $(sed 's/.*) //' "/proc/$$/stat" | cut -d' ' -f20)" > daemon.pid

# logs of earlier starts are set aside: what lies in the log folders belongs to this start
stamp=$(date +%Y%m%dT%H%M%S)
for folder in plog mindie-log daemon.log; do
    if [ -f "$folder" ] || [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
        mkdir -p "previous/$stamp" && mv "$folder" "previous/$stamp/"
    fi
done
mkdir -p plog mindie-log

sha256sum config.json rank_table.json service.env start.sh > started.sha256

# the order matters (ModelZoo DeepSeek-R1 README); names differ between image generations
ascend=/usr/local/Ascend
for script in "$ascend/ascend-toolkit/set_env.sh" "$ascend/cann/set_env.sh" "$ascend/nnal/atb/set_env.sh" \
    "$ascend/atb-models/set_env.sh" "$ascend/llm_model/set_env.sh" "$ascend/mindie/set_env.sh" \
    "$ascend/mindie/latest/mindie-service/set_env.sh"; do
    # shellcheck disable=SC1090
    if [ -f "$script" ]; then . "$script"; fi
done
. ./service.env

cd "$ascend/mindie/latest/mindie-service" || exit 1
exec ./bin/mindieservice_daemon > "$service/daemon.log" 2>&1
