#!/usr/bin/env bash
# Train in several processes, one for each GPU (or on the CPU, where there is none):
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
. "$(dirname "$0")/processes.sh"
[ $# -ge 2 ] || usage
run_in_processes "$2" train.py "$1" "${@:3}"
