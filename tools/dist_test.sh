#!/usr/bin/env bash
# bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of test.py]
# More than one machine: NNODES, NODE_RANK, MASTER_ADDR, PORT. Without a GPU the processes use gloo.
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
[ $# -ge 3 ] || usage
dist_run "$3" test.py "$1" "$2" "${@:4}"
