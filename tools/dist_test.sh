#!/usr/bin/env bash
# Test in several processes, one for each GPU (or on the CPU, where there is none):
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$3" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
