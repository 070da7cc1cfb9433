#!/usr/bin/env bash
# Test in several processes, one for each GPU (or on the CPU, where there is none):
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
. "$(dirname "$0")/processes.sh"
[ $# -ge 3 ] || usage
run_in_processes "$3" test.py "$1" "$2" "${@:4}"
