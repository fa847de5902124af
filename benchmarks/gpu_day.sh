#!/usr/bin/env bash
# What only a GPU can answer, within ten minutes, on a machine that has torch and nothing of ours:
#   bash benchmarks/gpu_day.sh OUT [CARRIED]
# Writes to OUT a JSON file and a log for each part, and gpu_day.json with all of them. A part that fails leaves its log; the others go on.
# `DEVICE=cpu SHORT=1` rehearses it without a GPU.
#
# What to carry, in the folder CARRIED (default .gpu in the repository, which git ignores), for a machine without a network:
#   wheels/   onedl-mmengine, onedl-mmcv built for that machine's torch, Python and GPU, onedl-mmsegmentation, onedl-mmdetection, and what they
#             import beyond torch, numpy and OpenCV: addict termcolor yapf platformdirs terminaltables ftfy prettytable wcwidth pycocotools imaug
#             shapely shtab (`pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 …`)
#   data/camvid   as in docs/datasets.md; benchmarks/camvid_gpu.yaml says how to make it smaller
#   weights/  mobilenet_v2_w1.0_imagenet.pth
# Without CARRIED the packages of the running Python, $MMDISTILL_DATA and $MMDISTILL_WEIGHTS are used.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
OUT=$(cd "$1" && pwd)
rm -f "$OUT/gpu_day.json"  # of an earlier call, whose other parts stay
CARRIED=${2:-.gpu} DEVICE=${DEVICE:-cuda} SHORT=${SHORT:-}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
if [ -d "$CARRIED/wheels" ]; then
    SITE=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" "$CARRIED"/wheels/*.whl || exit 1
    PYTHONPATH=$PWD:$SITE
fi
if [ -d "$CARRIED/data" ]; then
    MMDISTILL_DATA=$(cd "$CARRIED/data" && pwd) MMDISTILL_WEIGHTS=$(cd "$CARRIED/weights" && pwd)
    export MMDISTILL_DATA MMDISTILL_WEIGHTS
fi
START=$(date +%s)

part() { # NAME SECONDS COMMAND...: the output goes to NAME.log, its end and the time to this one
    local name=$1 limit=$2; shift 2
    timeout "$(choose "$limit" "$((6 * limit))")" "$@" >"$OUT/$name.log" 2>&1
    echo "$name: status $?, ended after $(($(date +%s) - START)) s"
}
benchmark() { part "$1" "$2" python3 tools/benchmark.py "${@:3}" --device "$DEVICE" --json "$OUT"; }
choose() { if [ -n "$SHORT" ]; then echo "$2"; else echo "$1"; fi; }  # whole run, rehearsal

python3 - <<'END' || exit 1
import torch, mmengine, mmcv, mmseg, mmdet, mmdistill_dense
from mmcv.ops import nms
print('torch', torch.__version__, 'CUDA', torch.version.cuda, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')
END

# 1. A short row of CamVid: the whole loop with AMP, workers, validation and checkpoints. No start weights, so scores are low.
AMP=$([ "$DEVICE" = cpu ] && echo OptimWrapper || echo AmpOptimWrapper)
ITERS=$(choose 500 2)
BATCH=$(choose 16 2)
FEWER=$(choose '' ', val_dataloader.dataset.indices: 4, test_dataloader.dataset.indices: 4')
OPTIONS="{train_dataloader.batch_size: $BATCH, auto_scale_lr.base_batch_size: $BATCH, train_cfg.max_iters: $ITERS, train_cfg.val_interval: $ITERS,
    param_scheduler.0.end: $((ITERS + 1)), optim_wrapper.type: $AMP, model.student.pretrained: null$FEWER}"
cat >"$OUT/camvid_row.yaml" <<END
title: CamVid, DeepLabV3 R-101 to R-18, $ITERS iterations without start weights
control: deeplabv3_r101_to_r18_camvid
teacher: {config: teachers/deeplabv3_r101_camvid, options: $OPTIONS}
options: $OPTIONS
methods: {kd: {}, cwd: {}, afdcd: {}}
seeds: [3]
metric: mIoU
jobs: 3
threads: 1
workers: 3
END
row() {
    cd "$OUT" && python3 -m mmdistill_dense suite run camvid_row.yaml && python3 -m mmdistill_dense suite table camvid_row.yaml
}
export -f row; export OUT
if [ -z "${NO_ROW:-}" ]; then part camvid_row "$(choose 300 900)" bash -c row & fi

# 2. One step of every method beside the CPU's values, in both mixed precisions, and its waits; four processes side by side.
methods() { # NAME PAIR [METHOD...]
    benchmark "methods_$1" 240 methods --name "methods_$1" --pair "$2" ${3:+--method} "${@:3}"
}
seg=deeplabv3plus_mobilenetv2_to_r18w16_camvid det=retinanet_mobilenetv2_to_r18w16_bccd
if [ -z "$SHORT" ]; then
    methods seg_1 $seg kd cwd dist at skd ifvd fitnet &
    methods seg_2 $seg cirkd mgd cankd freekd maskd afdcd pcd &
    methods det_1 $det kd cwd dist at fitnet pkd fgd mgd &
    methods det_2 $det cankd freekd frs defeat crosskd maskd afdcd pcd &
    methods masks mask_rcnn_mobilenetv2_to_r18w16_nuclei &
    methods vit dinov2-vits14_to_deeplabv3_r18_camvid &
fi
methods gfl gfl_mobilenetv2_to_r18w16_bccd &
methods detr dino_mobilenetv2_to_r18w16_bccd &

# 3. Pre-training: a few steps of each method.
pretrain() {
    for method in $1; do
        python3 -m mmdistill_dense train "$method:r18w16_from_mobilenetv2_small" --work-dir "$OUT/work/$method" --cfg-options \
            train_cfg.max_epochs=1 train_dataloader.batch_size=32 "train_dataloader.dataset.data_prefix=['camvid/images/train']" \
            optim_wrapper.type="$2" custom_hooks=[] || echo "FAILED: $method"
    done
}
export -f pretrain
part pretrain "$(choose 240 900)" bash -c "pretrain '$(choose 'pcd querymatch simreg featurematch tokenrelations queuekl' pcd)' $AMP" &
wait

# 4. Alone on the machine: times and memory.
step() { # NAME SECONDS RECIPE "HEIGHT WIDTH" BATCH METHODS OPTIONS...
    benchmark "step_$1" "$2" step --name "$1" --recipe "$3" --size $(choose "$4" '128 128') --batch "$(choose "$5" 2)" \
        --repeats "$(choose 5 1)" --method $(choose "$6" kd) --cfg-options model.teacher.checkpoint=random.pth "${@:7}"
}
ALONE=${ALONE:-losses seg seg_amp det det_fp16 camvid}
for one in $ALONE; do
    case $one in
        losses) benchmark losses 100 losses $(choose '' '--method afdcd --size small') ;;
        seg) step seg 150 deeplabv3_r101_to_r18_cityscapes '512 1024' 2 'kd cwd maskd pcd afdcd cirkd mgd dist at fitnet' ;;
        seg_amp) step seg_amp 100 deeplabv3_r101_to_r18_cityscapes '512 1024' 2 'kd cwd maskd pcd afdcd mgd' optim_wrapper.type="$AMP" ;;
        det) step det 100 retinanet_r101_to_r50_coco '800 1344' 2 'kd cwd fgd pkd maskd pcd mgd crosskd' ;;
        det_fp16) step det_fp16 100 retinanet_r101_to_r50_coco '800 1344' 2 'kd cwd fgd maskd pcd mgd' optim_wrapper.type="$AMP" ;;
        camvid) step camvid 60 deeplabv3_r101_to_r18_camvid '360 360' 16 'kd cwd afdcd maskd pcd' optim_wrapper.type="$AMP" ;;
    esac
done

python3 - "$OUT" <<'END'
import json, sys
from pathlib import Path
out = Path(sys.argv[1])
parts = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob('*.json'))}
logs = {path.stem: path.read_text(errors='replace')[-6000:] for path in sorted(out.glob('*.log'))}
(out / 'gpu_day.json').write_text(json.dumps({'parts': parts, 'logs': logs}, indent=1) + '\n')
print('\n\n'.join(part['markdown'] for part in parts.values()))
END
echo "all: $(($(date +%s) - START)) s"
