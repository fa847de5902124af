# Shared by dist_*.sh and slurm_*.sh, which source it.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The Python to use: $PYTHON, else that of the activated environment, else that of the checkout's own .venv.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$tools/../.venv/bin/python" ]; then PYTHON=$tools/../.venv/bin/python; fi
fi

usage() { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

# dist_run PROCESSES SCRIPT ARGUMENTS...
dist_run() {
    local processes=$1 script=$2 where=(--standalone); shift 2
    if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
        where=(--nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
    fi
    exec "$PYTHON" -m torch.distributed.run "${where[@]}" --nproc_per_node "$processes" "$tools/$script" "$@" --launcher pytorch
}

# slurm_run PARTITION JOB SCRIPT ARGUMENTS...
slurm_run() {
    local partition=$1 job=$2 script=$3 processes=${GPUS:-4}; shift 3
    local per_node=${GPUS_PER_NODE:-$((processes < 4 ? processes : 4))}
    local gres=${GRES-gpu:$per_node}
    # shellcheck disable=SC2086
    exec srun -p "$partition" --job-name="$job" ${gres:+--gres="$gres"} --ntasks="$processes" --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "$PYTHON" -u "$tools/$script" "$@" --launcher slurm
}
