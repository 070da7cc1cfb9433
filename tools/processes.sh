# What dist_train.sh and dist_test.sh share: several processes, on one machine or more.
set -euo pipefail

# The first lines of the script, as help.
usage() {
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
}

# run_in_processes NUMBER SCRIPT [arguments of the script]
run_in_processes() {
    exec "${PYTHON:-python}" -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$1" \
        "$(dirname "$0")/$2" --launcher pytorch "${@:3}"
}
