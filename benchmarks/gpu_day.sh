#!/usr/bin/env bash
# What only a GPU can answer, within ten minutes, on a machine that has torch and nothing of ours:
#   bash benchmarks/gpu_day.sh OUT [CARRIED]
# Writes OUT/gpu_day.json, again and again, with the commit, the date and each part's table, status and end of its log
# (benchmarks/gpu_day.py). Status: 0 all is measured, 1 a part failed, 124 time was short, 130 stopped (also by
# SIGTERM and SIGHUP), 2 not begun.
#   DEVICE=cpu SHORT=1   rehearses it without a GPU, and looks every method of the tables up
#   ONLY='step_seg …'    only these parts          SECONDS_IN_ALL=570   the deadline
# Without a wheel of mmcv in CARRIED it builds one in place of measuring, and leaves it in OUT: 0 built, 124 half built.
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
WORK=$(mktemp -d) CHILD='' STOPPED=''
trap 'rm -rf "$WORK"' EXIT
trap 'STOPPED=yes; [ -z "$CHILD" ] || kill -TERM "$CHILD" 2>/dev/null' TERM INT HUP

hand_on() { # COMMAND…: in the background, so that this shell hands signals on at once; ends with 130 after one
    local status
    "$@" <&0 &
    CHILD=$!
    [ -z "$STOPPED" ] || kill -TERM "$CHILD" 2>/dev/null # it came before CHILD was set
    while :; do
        wait "$CHILD"
        status=$?
        kill -0 "$CHILD" 2>/dev/null || break
    done
    CHILD=''
    [ -z "$STOPPED" ] || exit 130
    return $status
}

split_off() { # NAME: standard input into OUT in pieces, as a lent machine hands back 8 files of 16 MiB; gpu_pack.sh joins them
    split -b 15M - "$OUT/$1."
    du -cb "$OUT/$1".* | tail -n 1 | sed "s/total/bytes of $1/"
}

# mmcv's setup.py has no switch for single operations: its module registers all, so all are compiled. What is done by the
# limit is left as half_build.tgz, with the times of its files to the nanosecond and at the same path: ninja goes by both.
build() {
    local folder=${MMCV_BUILD:-/tmp/mmdistill_mmcv.$UID} limit=$((${SECONDS_IN_ALL:-570} - 40)) arch status
    arch=${TORCH_CUDA_ARCH_LIST:-$(python3 -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')} || return 2
    echo "mmcv is built for CUDA $arch, for $limit s at most."
    rm -rf "$folder" && mkdir "$folder" && tar -xzf "$CARRIED"/mmcv/onedl_mmcv-*.tar.gz -C "$folder" --strip-components=1 || return 2
    [ ! -f "$CARRIED/mmcv/half_build.tgz" ] || tar -xzf "$CARRIED/mmcv/half_build.tgz" -C "$folder" || return 2
    # CFLAGS in place of Python's own, which ask for debug symbols: they take longer, and ten times the room
    hand_on env TORCH_CUDA_ARCH_LIST="$arch" FORCE_CUDA=1 MMCV_WITH_OPS=1 MAX_JOBS="$(nproc)" CFLAGS='-O2 -DNDEBUG' LDFLAGS=-Wl,-s \
        timeout -k 10 "$limit" python3 -m pip wheel -q --no-index --no-deps --no-build-isolation -w "$WORK" "$folder"
    status=$?
    case $status in
        0) split_off "$(basename "$WORK"/onedl_mmcv-*.whl)" < <(cat "$WORK"/onedl_mmcv-*.whl) ;;
        124 | 137) status=124 && tar --format=posix -C "$folder" -czf - build | split_off half_build.tgz ;;
        *) return $status ;;
    esac
    echo 'Call gpu_pack.sh with the folder of these pieces, carry .gpu again, and call again.'
    return $status
}

if [ -d "$CARRIED/wheels" ] || [ -d "$CARRIED/mmcv" ]; then
    if ! ls "$CARRIED"/wheels/onedl_mmcv-*.whl >/dev/null 2>&1; then
        build
        exit $?
    fi
    hand_on python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" "$CARRIED"/wheels/*.whl || exit 2
    PYTHONPATH=$PWD:$WORK/site
fi
if [ -d "$CARRIED/data" ]; then
    MMDISTILL_DATA=$(cd "$CARRIED/data" && pwd) MMDISTILL_WEIGHTS=$(cd "$CARRIED/weights" && pwd)
    export MMDISTILL_DATA MMDISTILL_WEIGHTS
fi

ready() { # PYTHON: it has all packages, and the device that is asked for runs a kernel of torch and of mmcv
    hand_on "$1" - >"$WORK/ready" 2>&1 <<'END'
import os, sys
import torch, mmengine, mmcv, mmseg, mmdet, mmdistill_dense
from mmcv.ops import nms
device = os.environ['DEVICE']
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
print(sys.executable, 'torch', torch.__version__, 'CUDA', torch.version.cuda, gpu)
if device.startswith('cuda') and gpu == 'no GPU':
    sys.exit(f'DEVICE={device}, but torch sees no GPU')
try:
    pixels = torch.nn.functional.conv2d(torch.ones(1, 1, 2, 2, device=device), torch.ones(1, 1, 1, 1, device=device))
    boxes, scores = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2]], device=device), torch.tensor([.9, .8], device=device)
    wrong = [pixels.sum().item(), *nms(boxes, scores, .5)[1].tolist()] != [4, 0]
except Exception as error:
    sys.exit(f'no kernel runs on {device}: ' + str(error).partition('\n')[0])
sys.exit(f'the kernels of {device} compute wrong values' if wrong else 0)
END
}
for PYTHON in python3 "$PWD/.venv/bin/python" ''; do
    [ -n "$PYTHON" ] || exit 2
    if ready "$PYTHON"; then break; fi
    echo "$PYTHON: $(tail -n 1 "$WORK/ready")" >&2
done
cat "$WORK/ready"
export PYTHON
hand_on "$PYTHON" - "$OUT" <benchmarks/gpu_day.py # from standard input, as the check above
