#!/bin/sh
# Makes the environment of this checkout, or brings it up to date:  tools/setup_env.sh demo|det|test|upstream
#   demo  segmentation and mim; mmcv without its compiled operations, so that nothing is compiled
#   det   detection as well: mmcv with compiled operations (built once, then kept in the user's cache)
#   test  all of it: det, the test tools and what builds the documentation
#   upstream  the upstream packages (mmengine, mmcv, mmsegmentation, mmdet) in place of the maintained forks, and the test tools
# Settings, all optional: VENV (default .venv; for upstream .venv-upstream), PYTHON, MAX_JOBS, UV_TORCH_BACKEND, MMDISTILL_WHEELS (folder of compiled wheels).
set -eu
cd "$(dirname "$0")/.."

LEVEL=${1:-test}
PINS=requirements/constraints.txt
MMCV_NAME=onedl-mmcv MORE=
case $LEVEL in
    demo) enough='demo det test' EXTRA=onedl ;;
    det) enough='det test' EXTRA=onedl ;;
    test) enough='test' EXTRA=onedl,test,docs ;;
    upstream)
        enough=upstream EXTRA=test MMCV_NAME=mmcv MORE='-r requirements/upstream.txt'
        VENV=${VENV:-.venv-upstream} PINS="$PINS requirements/upstream.txt" ;;
    *) printf "setup: say demo, det, test or upstream, not '%s'\n" "$LEVEL" >&2; exit 1 ;;
esac
VENV=${VENV:-.venv}
PY=$VENV/bin/python
STAMP=$VENV/setup.stamp
LOG=$VENV/setup.log
HOME=${HOME:-$(eval "echo ~$(id -un)")}  # cron and some containers set none
WHEELS=${MMDISTILL_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/mmdistill_dense/wheels}
TORCH=$(sed -n 's/^torch==//p' $PINS)
MMCV=$(sed -n "s/^$MMCV_NAME==//p" $PINS)
MMCV_WHEEL=$(echo "$MMCV_NAME-$MMCV" | sed 's/onedl-/onedl_/')
START=$(date +%s)
ticker= build=

say() { printf '[setup %4ds] %s\n' $(($(date +%s) - START)) "$1"; }
die() { printf 'setup: %s\n' "$1" >&2; exit 1; }
trap '[ -z "$ticker" ] || kill "$ticker" 2>/dev/null; [ -z "$build" ] || rm -rf "$build"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# attempt DESCRIPTION COMMAND...: output goes to the log, a line every 10 seconds shows that it is alive
attempt() {
    say "$1"; shift
    ( n=0; while sleep 1; do n=$((n + 1)); [ $((n % 10)) -ne 0 ] || say '  still running'; done ) &
    ticker=$!
    status=0; "$@" >>"$LOG" 2>&1 || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=
    return "$status"
}

# The same; a failure ends the set-up.
run() { attempt "$@" || { tail -n 25 "$LOG" >&2; die "the step above failed; the whole log is in $LOG"; }; }

uv_install() { "$VENV/bin/uv" pip install --python "$PY" $(printf -- '--constraint %s ' $PINS) "$@"; }

# uv compiles no bytecode, and many containers tell Python not to write any: then every later start takes 8 seconds longer.
check_imports() { run 'checking the imports' env PYTHONDONTWRITEBYTECODE= "$PY" -c "import $1"; }

find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then PYTHON=$name; break; fi
        found="${found:-} $name is $("$name" -V 2>/dev/null || echo absent);"; name=
    done
    [ -n "$name" ] || die "Python 3.10 or newer is needed ($found). Name one with: make demo PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"
}

need_compiler() {
    command -v "${CXX:-c++}" >/dev/null ||
        die 'a C++ compiler is needed to build mmcv (Debian, Ubuntu: apt install g++; macOS: xcode-select --install). `make demo` needs none.'
    "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        die "the C headers of $PYTHON are missing (Debian, Ubuntu: apt install python3-dev). \`make demo\` does not need them."
}

# uv reads neither pip's configuration nor its variables; what names another source of packages must reach it.
adopt_pip_settings() {
    links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$PY" -m pip config get global.find-links 2>/dev/null || true)}}
    links=$(echo $links | tr ' ' ',')
    [ -z "$links" ] || export UV_FIND_LINKS="$links"
    [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
}

install_torch() {
    if [ -n "${UV_TORCH_BACKEND:-}" ]; then
        uv_install "torch==$TORCH"
    elif nvidia-smi >/dev/null 2>&1; then
        uv_install "torch==$TORCH" --torch-backend=auto
    else
        { [ -n "${UV_FIND_LINKS:-}" ] && uv_install "torch==$TORCH+cpu"; } || uv_install "torch==$TORCH" --torch-backend=cpu
    fi
}

count_jobs() {  # a compiler process takes up to 2 GB
    cores=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
    fits=$(awk '/MemAvailable/ {print int($2 / 2000000)}' /proc/meminfo 2>/dev/null || true)
    [ -z "$fits" ] || [ "$fits" -ge "$cores" ] || cores=$fits
    [ "$cores" -ge 1 ] || cores=1
    echo "$cores"
}

# Any command, with what mmcv's setup.py is to see.
for_mmcv() { env ${hidden+"CUDA_VISIBLE_DEVICES=$hidden"} MAX_JOBS="$jobs" CFLAGS='-DNDEBUG -O2 -g0 -fwrapv' PATH="$VENV_BIN:$PATH" "$@"; }

# mmcv_source download|wheel OPTION FOLDER. pip's own cache is kept out: it does not tell builds with and without operations apart.
mmcv_source() {
    for_mmcv "$PY" -m pip --no-cache-dir "$@" --no-deps --no-build-isolation --no-binary $MMCV_NAME "$MMCV_NAME==$MMCV"
}

# Each of mmcv's C++ files reads torch's headers anew, which is nearly all of the work; a few large files read them seldom.
quick_build() {
    script=$(pwd)/tools/build_mmcv.py
    mmcv_source download -d "$build" && tar xzf "$build"/*.tar.gz -C "$build" &&
        ( cd "$build"/*/ && for_mmcv "$VENV_BIN/python" "$script" "$build" )
}

# Leaves the path of the wheel in $wheel.
compiled_mmcv() {
    key=$("$PY" -c 'import sys; from importlib.metadata import version as v; print("cp%d%d-torch%s" % (*sys.version_info[:2], v("torch")))')
    unset hidden  # an empty CUDA_VISIBLE_DEVICES would hide all GPUs from the build
    if nvidia-smi >/dev/null 2>&1 && ! command -v nvcc >/dev/null; then
        say 'a GPU but no nvcc: building the operations for the CPU only (detection on the GPU needs the CUDA toolkit)'
        key=$key-noncc; hidden=-1
    fi
    wheel=$(ls "$WHEELS/$key/$MMCV_WHEEL-"*.whl 2>/dev/null | head -n 1)
    [ -z "$wheel" ] || return 0
    need_compiler
    mkdir -p "$WHEELS/$key"
    build=$(cd "$(mktemp -d "$WHEELS/$key/build.XXXXXX")" && pwd)
    jobs=${MAX_JOBS:-$(count_jobs)}
    run 'installing the build tools of mmcv' uv_install setuptools wheel ninja psutil packaging numpy
    [ "$(uname)" != Linux ] || export LDFLAGS='-Wl,-s'
    attempt "compiling mmcv $MMCV, once for this Python and torch (about 2 minutes divided by the number of cores)" quick_build || {
        say "that failed, see $LOG"
        rm -f "$build"/*.whl
        run 'compiling mmcv file by file (about 10 minutes divided by the number of cores)' mmcv_source wheel -w "$build"
    }
    mv "$build"/*.whl "$WHEELS/$key/"
    rm -rf "$build"; build=
    wheel=$(ls "$WHEELS/$key/$MMCV_WHEEL-"*.whl | head -n 1)
}

sum=$( { pwd; cat setup.cfg $PINS tools/setup_env.sh tools/build_mmcv.py; } | cksum | tr ' ' -)
if [ -f "$STAMP" ] && "$PY" -c '' 2>/dev/null; then
    for level in $enough; do [ "$(cat "$STAMP")" != "$level $sum" ] || exit 0; done
fi

find_python
[ "$LEVEL" = demo ] || ls "$WHEELS"/*/"$MMCV_WHEEL"-*.whl >/dev/null 2>&1 || need_compiler
say "environment '$VENV' for '$LEVEL', from $("$PYTHON" -V)"
"$PY" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || "$PYTHON" -m venv --clear "$VENV"
: >"$LOG"
rm -f "$STAMP"
VENV_BIN=$(cd "$VENV/bin" && pwd)
[ -x "$VENV/bin/uv" ] || run 'installing uv, the installer used from here on' "$PY" -m pip install uv
adopt_pip_settings
run "installing torch $TORCH" install_torch
if [ "$LEVEL" = demo ]; then
    run 'installing mmengine, mmcv (without compiled operations), mmsegmentation, mmdetection, mim and this package' uv_install -e ".[$EXTRA]"
    check_imports 'torch, mmcv, mmseg.models, mmdistill_dense'
else
    compiled_mmcv
    run "installing mmengine, mmcv (compiled), mmsegmentation, mmdetection, mim and this package with the extras $EXTRA" \
        uv_install --reinstall-package $MMCV_NAME "$wheel" -e ".[$EXTRA]" $MORE
    check_imports 'torch, mmcv.ops, mmseg.models, mmdet.models, mmdistill_dense'
fi
echo "$LEVEL $sum" >"$STAMP"
say 'ready'
