#!/usr/bin/env bash
# bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
# Settings: GPUS (processes, 4), GPUS_PER_NODE (4, or GPUS if fewer), CPUS_PER_TASK (5), GRES (gpu:GPUS_PER_NODE; empty for none), SRUN_ARGS.
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
[ $# -ge 3 ] || usage
slurm_run "$1" "$2" train.py "${@:3}"
