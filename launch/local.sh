#!/usr/bin/env bash
# Trains on all devices of this host.
#   bash launch/local.sh --config=configs/sdfl.py --workdir=runs/sdfl [--config.KEY=VALUE]
# CUDA_VISIBLE_DEVICES=0 takes one GPU of several. PROCESSES=2 starts two processes that
# share the host's GPUs between them, as two hosts would.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source launch/env.sh

if command -v nvidia-smi >/dev/null; then
    environment requirements-gpu.txt
else
    environment requirements.txt
fi
processes=${PROCESSES:-1}
if [ "$processes" = 1 ]; then
    exec "$py" -m sdfl_jax.main "$@"
fi

export COORDINATOR_ADDRESS=127.0.0.1:${PORT:-12355} PROCESS_COUNT=$processes
mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
share=$((${#gpus[@]} / processes))
pids=()
for ((i = 0; i < processes; i++)); do
    if [ "$share" -gt 0 ]; then
        mine=("${gpus[@]:i * share:share}")
        export CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${mine[*]}")
    fi
    PROCESS_INDEX=$i "$py" -m sdfl_jax.main "$@" &
    pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
status=0
for pid in "${pids[@]}"; do
    wait "$pid" || status=$?
done
exit "$status"
