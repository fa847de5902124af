#!/bin/sh
# The unfinished runs of a suite as arrays of Slurm jobs; `mmdistill` and `python` are those of the shell. Use:
#   sh examples/slurm_array.sh DEFINITION PROCESSES [OPTIONS OF SBATCH]
#   sh examples/slurm_array.sh benchmarks/voc.yaml 8 --partition=gpu --gres=gpu:8 --cpus-per-task=5 --time=24:00:00
# PROCESSES are those of each run. The first array is what needs no other run (the teacher, pre-trainings), the next one what needs those. MOST=4 before the command lets four jobs of
# an array run at a time. A job of iterations saves 120 seconds before its time limit and waits in the queue again; after a failure, the
# same command submits what is left. Then: mmdistill suite table DEFINITION
set -eu
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # a job of an array: $1 is the definition, $2 the file with a run in each line
    words=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$2") # ROW --seed NUMBER
    if [ "$SLURM_NTASKS" -gt 1 ]; then words="$words --launcher slurm"; fi
    export MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000)) # two jobs may share a machine
    status=0 # since Slurm 22.05, srun does not take the number of cores by itself
    srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} \
        mmdistill suite job "$1" $words || status=$?
    # 138 = 128 + SIGUSR1: it saved itself; a failure or a cancelled job has another status
    if [ $status = 138 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    exit $status
fi
definition=$1 processes=$2
shift 2
name=$(basename "$definition")
if [ -n "$(squeue --noheader --me --name="$name")" ]; then
    echo "jobs of $name are in the queue: wait for them, or scancel --name=$name" >&2
    exit 1
fi
folder=$(python - "$definition" "$processes" <<'END'
import sys
from collections import defaultdict

from mmdistill_dense.utils.process import quiet

sys.tracebacklimit = 0  # a mistake is told in one line
with quiet():
    from mmdistill_dense.apps.suite import plan
    from mmdistill_dense.apps.suite.definition import load_suite

    definition, processes = load_suite(sys.argv[1]), int(sys.argv[2])
    todo = plan.unfinished(definition, plan.runs(definition), processes)
    plan.check_batch(definition, plan.resolved(definition, todo), processes)
stages, lines = {}, defaultdict(list)
for run in todo:  # what a run needs stands before it
    stages[run.folder] = 1 + max((stages.get(folder, 0) for folder in run.after), default=0)
    lines[stages[run.folder]].append(f'{run.name} --seed {run.seed}\n')
folder = definition.out / 'slurm'
folder.mkdir(parents=True, exist_ok=True)
for file in folder.glob('runs*.txt'):
    file.unlink()
for stage, runs in lines.items():
    (folder / f'runs{stage}.txt').write_text(''.join(runs))
print(folder)
END
)
after=
for runs in "$folder"/runs*.txt; do
    [ -f "$runs" ] || { echo 'no run is left'; exit; }
    count=$(grep -c '' "$runs")
    # where there are several clusters, sbatch prints NUMBER;CLUSTER
    job=$(sbatch --parsable --job-name="$name" --array="1-$count${MOST:+%$MOST}" --output="$folder/%A_%a.txt" \
        --ntasks="$processes" --requeue --signal=USR1@120 ${after:+--dependency=afterany:$after} "$@" \
        "$0" "$definition" "$runs")
    after=${job%%;*}
    echo "job $after: $count run(s), their logs are $folder/${after}_*.txt"
done
