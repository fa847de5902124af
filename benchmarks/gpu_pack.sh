#!/usr/bin/env bash
# Packs what benchmarks/gpu_day.sh needs on a machine without a network into .gpu (which git ignores), and measures it:
#   bash benchmarks/gpu_pack.sh [PYTHON_VERSION [PIECES]]     default 3.12, the version on that machine; Linux, x86-64
# - wheels/: all that torch's machine lacks. mmcv's operations need a build for its GPU, torch and Python. mmcv/ holds its source:
#   the first `gpu_day.sh OUT` there builds it with that machine's nvcc (not tried yet) and leaves pieces of the wheel in OUT, or
#   of half a build, which the next goes on with. PIECES is the folder where they came back: they are joined here. A wheel built
#   elsewhere for the same torch goes into .gpu/wheels at once. Until there is one, .gpu/mmcv is all that must be carried.
# - data/camvid: pictures at JPEG quality 75, 26 MiB in place of 62; weights/: the start weights of pre-training's teachers.
# $MMDISTILL_DATA and $MMDISTILL_WEIGHTS name the folders of docs/datasets.md. Carry .gpu beside the repository; both count.
set -euo pipefail
VERSION=${1:-3.12} PIECES=${2:+$(realpath "$2")} MOST=64
cd "$(dirname "$0")/.."
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3
: "${MMDISTILL_DATA:?name the folder above camvid}" "${MMDISTILL_WEIGHTS:?name the folder of weights}"
mkdir -p .gpu/wheels .gpu/mmcv .gpu/data .gpu/weights
ZIP_TEST='import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip())'
join() { # FIRST TEST…: the pieces beside FIRST, NAME.aa; TEST sees whether all came back
    local first=$1 whole
    whole=$(basename "$first" .aa)
    shift
    cat "${first%.aa}".?? >".gpu/$whole"
    "$@" ".gpu/$whole" >/dev/null || { echo "$whole is not whole: a piece is missing" >&2; exit 1; }
}
if [ -n "$PIECES" ]; then
    for first in "$PIECES"/*.aa; do
        case $first in
            */onedl_mmcv-*.whl.aa)
                join "$first" "$PYTHON" -c "$ZIP_TEST"
                rm -f .gpu/wheels/onedl_mmcv-*
                mv .gpu/onedl_mmcv-* .gpu/wheels
                ;;
            */half_build.tgz.aa) join "$first" gzip -t && mv .gpu/half_build.tgz .gpu/mmcv ;;
            *) echo "$PIECES holds no pieces of mmcv" >&2 && exit 1 ;;
        esac
    done
fi
"$PYTHON" -m pip --version >/dev/null
pin() { sed -n "s/^\($1==[^ ]*\).*/\1/p" requirements/constraints.txt | tail -n 1; }

PLATFORMS=$(printf -- '--platform manylinux_2_%s_x86_64 ' 39 35 34 31 28 27 24 17; echo '--platform manylinux2014_x86_64 --platform manylinux1_x86_64')
for name in onedl-mmengine onedl-mmsegmentation onedl-mmdetection addict termcolor yapf platformdirs terminaltables ftfy prettytable \
    wcwidth pycocotools imaug shapely shtab; do
    wheel=$(tr - _ <<<"$name")
    rm -f .gpu/wheels/"$wheel"-*.whl
    named=$(pin "$name" | grep . || echo "$name")
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "$VERSION" --implementation cp $PLATFORMS \
        -d .gpu/wheels "$named" 2>/dev/null ||
        "$PYTHON" -m pip wheel -q --no-deps --no-build-isolation -w .gpu/wheels "$named" # a source alone, of Python
done
if odd=$(ls .gpu/wheels | grep -v -e none-any -e "cp${VERSION/./}" -e abi3); then
    echo "not for Python $VERSION: $odd" >&2
    exit 1
fi
rm -f .gpu/mmcv/onedl_mmcv-*
"$PYTHON" -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d .gpu/mmcv "$(pin onedl-mmcv)"

if [ ! -d .gpu/data/camvid ]; then
    cp -rL "$MMDISTILL_DATA/camvid" .gpu/data/.camvid
    chmod -R u+w .gpu/data/.camvid
    "$PYTHON" -c "
from pathlib import Path
from PIL import Image
for file in Path('.gpu/data/.camvid/images').rglob('*.jpg'):
    Image.open(file).convert('RGB').save(file, quality=75, optimize=True)"
    mv .gpu/data/.camvid .gpu/data/camvid
fi
cp -L "$MMDISTILL_WEIGHTS/mobilenet_v2_w1.0_imagenet.pth" .gpu/weights/

bytes() { tr '\n' '\0' | du -cb --files0-from=- 2>/dev/null | tail -n 1 | cut -f 1; }
CARRY=.gpu/mmcv # until that GPU's wheel is there
ls .gpu/wheels/onedl_mmcv-*.whl >/dev/null 2>&1 && CARRY=.gpu && rm -rf .gpu/mmcv
TREE=$(git ls-files --cached --others --exclude-standard | bytes) PACKED=$(find $CARRY -type f | bytes)
ALL=$(((TREE + PACKED + 2 ** 20 - 1) / 2 ** 20))
echo "repository $((TREE / 2 ** 20)) MiB, $CARRY $((PACKED / 2 ** 20)) MiB, together $ALL of $MOST MiB"
[ $CARRY = .gpu ] || echo "no mmcv for that GPU yet: carry $CARRY, and the first gpu_day.sh there builds it"
[ "$ALL" -le "$MOST" ] || { echo "more than $MOST MiB: leave something out" >&2; exit 1; }
