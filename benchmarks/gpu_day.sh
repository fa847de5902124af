#!/usr/bin/env bash
# What only a GPU can answer, within ten minutes, on a machine that has torch and nothing of ours:
#   bash benchmarks/gpu_day.sh OUT [CARRIED]
# Writes OUT/gpu_day.json, again and again, with the commit, the date and each part's table, status and end of its log
# (benchmarks/gpu_day.py). Status: 0 all is measured, 1 a part failed, 124 time was short, 130 stopped, 2 not begun.
#   DEVICE=cpu SHORT=1   rehearses it without a GPU, and looks every method of the tables up
#   ONLY='step_seg …'    only these parts          SECONDS_IN_ALL=570   the deadline
# CARRIED (default .gpu, which git ignores) is what `bash benchmarks/gpu_pack.sh` packs for a machine without a network. Without it
# the packages of python3 or .venv, $MMDISTILL_DATA and $MMDISTILL_WEIGHTS are used.
set -uo pipefail
STARTED=$(date +%s)
mkdir -p "$1" && OUT=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
CARRIED=${2:-.gpu} DEVICE=${DEVICE:-cuda}
export STARTED DEVICE PYTHONUNBUFFERED=1 PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
if ls "$OUT"/*.json >/dev/null 2>&1; then
    echo "$OUT holds results of an earlier call, perhaps of another commit: name another folder." >&2
    exit 2
fi
if [ -d "$CARRIED/wheels" ]; then
    SITE=$(mktemp -d)
    trap 'rm -rf "$SITE"' EXIT
    if ! ls "$CARRIED"/wheels/onedl_mmcv-*.whl >/dev/null 2>&1; then
        echo 'mmcv is built for this GPU first. Put the wheel into wheels/ of what is carried, and call again.'
        TORCH_CUDA_ARCH_LIST=$(python3 -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') FORCE_CUDA=1 MMCV_WITH_OPS=1 \
            MAX_JOBS=$(nproc) LDFLAGS=-Wl,-s python3 -m pip wheel -q --no-index --no-deps --no-build-isolation -w "$OUT" "$CARRIED"/mmcv/*.tar.gz
        exit $?
    fi
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" "$CARRIED"/wheels/*.whl || exit 2
    PYTHONPATH=$PWD:$SITE
fi
if [ -d "$CARRIED/data" ]; then
    MMDISTILL_DATA=$(cd "$CARRIED/data" && pwd) MMDISTILL_WEIGHTS=$(cd "$CARRIED/weights" && pwd)
    export MMDISTILL_DATA MMDISTILL_WEIGHTS
fi

ready() { # PYTHON: it has all packages, and the GPU that is asked for
    "$1" - <<'END'
import os, sys
import torch, mmengine, mmcv, mmseg, mmdet, mmdistill_dense
from mmcv.ops import nms
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
print(sys.executable, 'torch', torch.__version__, 'CUDA', torch.version.cuda, gpu)
sys.exit('DEVICE=cuda, but torch sees no GPU' if os.environ['DEVICE'] != 'cpu' and gpu == 'no GPU' else 0)
END
}
for PYTHON in python3 "$PWD/.venv/bin/python" ''; do
    [ -n "$PYTHON" ] || exit 2
    if STATE=$(ready "$PYTHON" 2>&1); then break; fi
    echo "$PYTHON: $(tail -n 1 <<<"$STATE")" >&2
done
echo "$STATE"
export PYTHON
"$PYTHON" - "$OUT" <benchmarks/gpu_day.py & # as the check above, and in the background, so that this shell hands signals on
DAY=$!
trap 'kill -TERM $DAY' TERM INT HUP
while :; do
    wait $DAY
    STATUS=$?
    kill -0 $DAY 2>/dev/null || exit $STATUS
done
