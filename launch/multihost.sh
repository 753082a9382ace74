#!/usr/bin/env bash
# One process of several; run it on every host with the same arguments.
#   COORDINATOR_ADDRESS=host0:12355 PROCESS_COUNT=2 PROCESS_INDEX=0 \
#       bash launch/multihost.sh --config=configs/sdfl.py --workdir=/shared/runs/sdfl
# COORDINATOR_ADDRESS: HOST:PORT of the host with index 0, reachable from all others.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source launch/env.sh

for name in COORDINATOR_ADDRESS PROCESS_COUNT PROCESS_INDEX; do
    if [ -z "${!name:-}" ]; then
        echo "Error: $name is not set; see the head of launch/multihost.sh." >&2
        exit 2
    fi
done
export COORDINATOR_ADDRESS PROCESS_COUNT PROCESS_INDEX
if command -v nvidia-smi >/dev/null; then
    environment requirements-gpu.txt
else
    environment requirements.txt
fi
exec "$py" -m sdfl_jax.main "$@"
