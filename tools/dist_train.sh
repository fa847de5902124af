#!/usr/bin/env bash
# bash tools/dist_train.sh CONFIG PROCESSES [arguments of train.py]
# More than one machine: NNODES, NODE_RANK, MASTER_ADDR, PORT. Without a GPU the processes use gloo.
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
[ $# -ge 2 ] || usage
dist_run "$2" train.py "$1" "${@:3}"
