#!/usr/bin/env bash
# Makes .venv in this checkout: torch, one family of OpenMMLab packages, this package (editable) and the tools of development.
#
#   bash tools/env.sh                      the maintained OneDL fork
#   FAMILY=openmmlab bash tools/env.sh     the upstream packages, frozen since 2024
#
# Run it as often as you like: finished steps are verified and kept, a killed run is continued.
# Other variables: PYTHON (interpreter to start from), MMCV_WHEEL_DIR (folder with a prebuilt mmcv wheel), XDG_CACHE_HOME
# (where wheels built here are kept), MAX_JOBS (compilers at once), MIN_DISK_GB (free space to insist on).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
family=${FAMILY:-onedl}
venv=$root/.venv
py=$venv/bin/python
log=$venv/env.log     # output of the last slow command
stamp=$venv/env.stamp # written last, when everything has been proved
check=$root/tools/env_check.py
cache=${XDG_CACHE_HOME:-$HOME/.cache}/densebackbones

case $family in
    onedl) torch=2.12.1 torchvision=0.27.1 newest_torch=2.13 newest_python=3.13 mmcv=onedl-mmcv setuptools='>=77,<82' limits='' ;;
    openmmlab) # the limits: later versions need numpy 2, and pip searches for minutes until it finds these
        torch=2.4.1 torchvision=0.19.1 newest_torch=2.4 newest_python=3.12 mmcv=mmcv setuptools='>=77,<81'
        limits='sahi<0.12 pandas<3 ml_dtypes<0.6'
        ;;
    *)
        echo "env: ERROR: FAMILY is '$family'; it must be onedl or openmmlab" >&2
        exit 2
        ;;
esac

say() { echo "env: $*"; }
fail() { # fail ERROR REMEDY...
    echo "env: ERROR: $1" >&2
    printf 'env:   %s\n' "${@:2}" >&2
    exit 1
}

# ---- requirements of the machine ------------------------------------------------------------------------------------------

pick_python() {
    local candidate newest=${newest_python#3.}
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10 python3.13}; do
        if "$candidate" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "no Python from 3.10 to $newest_python found (tried ${PYTHON:-python3 and python3.10 to python3.13})" \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv python3-dev), or name one: PYTHON=/path/to/python3.11"
}

need_disk() { # need_disk FOLDER GB REMEDY
    local folder=$1 free
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    free=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$2" ] || fail "not enough disk space: $2 GB are needed, $free GB are free in $folder" "$3"
}

need_compiler() { # need_compiler PYTHON
    local cxx=${CXX:-c++} include error
    include=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    command -v "${cxx%% *}" >/dev/null || fail "no C++ compiler ($cxx), and mmcv has to be compiled" \
        "Install one (Debian, Ubuntu: apt-get install build-essential), or point MMCV_WHEEL_DIR at a folder with a prebuilt wheel."
    [ -f "$include/Python.h" ] || fail "no Python headers ($include/Python.h), and mmcv has to be compiled" \
        "Install them (Debian, Ubuntu: apt-get install python3-dev), or take a Python that has them: PYTHON=/path/to/python3"
    error=$(echo '#include <Python.h>' | $cxx -std=c++17 "-I$include" -x c++ -fsyntax-only - 2>&1) ||
        fail "$cxx cannot compile C++17 against Python's headers: $error" \
            "Install a compiler with its libraries (Debian, Ubuntu: apt-get install build-essential), or name another: CXX=g++-12"
}

need_nvcc() { # with a GPU in sight mmcv compiles CUDA operators too, by an nvcc of the CUDA that torch was built with
    local cuda nvcc found
    cuda=$("$py" -c 'import torch; print(torch.version.cuda if torch.cuda.is_available() else "")')
    [ -n "$cuda" ] || return 0
    nvcc=$(command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || command -v nvcc || echo true)
    found=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
    [ "$found" = "${cuda%%.*}" ] || fail "torch sees a GPU and was built with CUDA $cuda, but nvcc is ${found:-missing}" \
        "Install the CUDA toolkit ${cuda%%.*} and set CUDA_HOME, or go without the GPU: CUDA_VISIBLE_DEVICES= bash tools/env.sh"
}

# ---- how slow commands run --------------------------------------------------------------------------------------------

quiet() { # quiet COMMAND...: output to the log, a sign of life every minute, a remedy when it fails
    (
        exec 8>&- 9>&- # the locks are not this loop's
        while sleep 60 >/dev/null 2>&1 && kill -0 $$; do
            say "... $((SECONDS / 60)) min $(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$log" | tail -n 1)"
        done
    ) 2>/dev/null &
    local beat=$! status=0
    "$@" >"$log" 2>&1 || status=$?
    { kill "$beat" && wait "$beat"; } 2>/dev/null || true
    [ "$status" -eq 0 ] || explain "$*"
}

explain() {
    tail -n 15 "$log" | sed 's/^/env:   | /' >&2
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full" "Free some: .venv takes 6 GB, and 4 GB more pass through TMPDIR ($(df -Ph "${TMPDIR:-/tmp}" | awk 'NR == 2 { print $4 }') free)."
    elif grep -qE 'ConnectionError|Connect(ion)?Timeout|Read timed out|ProxyError|name resolution|unreachable|Connection refused|from versions: none' "$log"; then
        fail "the Python package index cannot be reached" "Check the network, or the mirror in pip's settings (pip config list), and run again."
    elif grep -qE 'Killed|signal 9|annot allocate memory' "$log"; then
        fail "memory ran out" "Run again with fewer compilers at once: MAX_JOBS=1 bash tools/env.sh"
    fi
    fail "this command failed: $1" "Its whole output is in $log"
}

pip() { "$py" -m pip --disable-pip-version-check "$@"; }

# ---- mmcv -------------------------------------------------------------------------------------------------------------

try_wheel() { # try_wheel FILE: nothing but a proof that its operators load makes a wheel a good one
    reason=$(pip install --no-index --no-deps --force-reinstall "$1" 2>&1) && reason=$("$py" "$check" mmcv 2>&1)
}

build_wheel() { # the source stays until its wheel is whole, so a killed build goes on with the file it was at
    local jobs=${MAX_JOBS:-$(nproc)}
    need_compiler "$py"
    need_nvcc
    need_disk "$wheels" 2 "Free some, or keep wheels elsewhere: XDG_CACHE_HOME=/bigger/folder"
    say "compiling $mmcv $mmcv_version with $jobs jobs: about $((20 / jobs + 1)) minutes, once; the wheel is kept in $wheels"
    if [ ! -d "$wheels/source" ]; then
        rm -rf "$wheels/download"
        quiet pip download --no-cache-dir --no-deps --no-binary :all: --no-build-isolation -d "$wheels/download" "$mmcv==$mmcv_version"
        mkdir "$wheels/download/source"
        tar -xzf "$wheels"/download/*.tar.gz -C "$wheels/download/source" --strip-components=1
        mv "$wheels/download/source" "$wheels/source"
    fi
    # no cache of pip's: it would hand out a wheel that was built against another torch
    MAX_JOBS=$jobs quiet pip wheel --verbose --no-cache-dir --no-deps --no-build-isolation -w "$wheels/built" "$wheels/source"
    mv "$wheels"/built/*.whl "$wheels/"
    rm -rf "$wheels/source" "$wheels/download" "$wheels/built"
}

install_mmcv() {
    local wheel reason
    reason=$("$py" -c 'import cv2, mmengine, torch' 2>&1) || fail "a requirement of $mmcv does not load: $reason" "Start over: rm -rf $venv"
    wheels=$cache/$mmcv-$mmcv_version-$("$py" "$check" wheel-key)
    for wheel in "${MMCV_WHEEL_DIR:-/nowhere}/${mmcv//-/_}-$mmcv_version-$python_tag"-*.whl; do
        [ -f "$wheel" ] || continue
        say "trying the prebuilt $wheel"
        try_wheel "$wheel" && return
        say "it does not fit and is left alone: $reason"
    done
    mkdir -p "$wheels"
    exec 8<"$wheels"
    flock --nonblock 8 || { say "waiting for another build of the same wheel" && flock 8; }
    for wheel in "$wheels"/*.whl; do
        [ -f "$wheel" ] || continue
        say "trying $wheel, which was built earlier"
        try_wheel "$wheel" && return
        say "it is broken, so it is thrown out and built again: $reason"
        rm -f "$wheel"
    done
    build_wheel
    try_wheel "$wheels"/*.whl || fail "$mmcv was compiled against this torch, yet its operators do not load: $reason" \
        "Start over: rm -rf $venv $wheels"
}

# ---- nothing to do? ---------------------------------------------------------------------------------------------------

inputs=$family-$(cat "$root"/{setup.py,pyproject.toml,backbones/families.py} "${BASH_SOURCE[0]}" "$check" | sha256sum | cut -c 1-16)
if [ "$(cat "$stamp" 2>/dev/null)" = "$inputs" ] && reason=$("$py" "$check" all "$family" 2>&1); then
    say "$venv is ready ($family)"
    exit
fi
[ -z "${reason:-}" ] || say "$venv needs repair: $reason"

exec 9<"$root"
flock --nonblock 9 || { say "waiting for another run in this checkout" && flock 9; }

# ---- checks before the first download ----------------------------------------

python=$py
[ -e "$py" ] || [ -L "$py" ] || python=$(pick_python)
python_tag=$("$python" -c 'import sys; assert sys.version_info >= (3, 10); print("cp%d%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail "$venv is no working environment of Python 3.10 or newer" "Start over: rm -rf $venv"
mmcv_version=$("$python" "$check" version "$mmcv")
if [ -e "$py" ]; then
    reason=$("$py" "$check" family "$family") || fail "$reason" "Name the FAMILY that is there, or start over: rm -rf $venv"
fi
has_torch=yes
if ! "$py" "$check" torch "$newest_torch" >/dev/null 2>&1; then
    has_torch=no
    need_disk "$root" "${MIN_DISK_GB:-10}" "Free some: .venv takes 6 GB, and 4 GB more pass through temporary files and pip's cache."
fi
if ! compgen -G "${MMCV_WHEEL_DIR:-/nowhere}/${mmcv//-/_}-$mmcv_version-$python_tag-*.whl" >/dev/null &&
    ! compgen -G "$cache/$mmcv-$mmcv_version-$python_tag-*/*.whl" >/dev/null &&
    ! "$py" "$check" mmcv >/dev/null 2>&1; then
    need_compiler "$python"
fi

# ---- step by step; each one is skipped by its own proof ---------------------------------------------------------------

if ! "$py" -m pip --version >/dev/null 2>&1; then
    say "making $venv with $python"
    reason=$("$python" -m venv "$venv" 2>&1) || fail "no virtual environment could be made: $reason" \
        "Debian, Ubuntu: apt-get install python3-venv; then rm -rf $venv and run again."
    # a torch installed for the interpreter is used from there: its folder comes after .venv's own on the path
    if lender=$("$python" "$check" torch "$newest_torch" 2>/dev/null) && "$python" "$check" family "$family" >/dev/null; then
        say "using the torch in $lender"
        echo "$lender" >"$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed_torch.pth"
    fi
fi

# pip writes RECORD last: a package without it was being installed when a run was killed, and pip would take it for whole
for info in "$venv"/lib/python3*/site-packages/*.dist-info; do
    [ -e "$info/RECORD" ] || { say "removing the remains of $(basename "$info" .dist-info)" && rm -rf "$info"; }
done

say "build tools and this package"
quiet pip install "setuptools$setuptools" wheel ninja psutil packaging
quiet pip install --no-deps --no-build-isolation --editable "$root"

# before packages that need any torch (timm), or pip takes the newest one for it and its CUDA packages with it
if [ $has_torch = no ] && ! reason=$("$py" "$check" torch "$newest_torch" 2>&1); then
    say "torch $torch, torchvision $torchvision (so far: $reason): 3 GB, one or two minutes on a fast line"
    quiet pip install "torch==$torch" "torchvision==$torchvision"
fi

say "the family $family and the development tools: about a minute when new"
"$py" "$check" requirements "$family" >"$venv/env.requirements"
tr ' ' '\n' <<<"$limits" >"$venv/env.constraints"
quiet pip install --requirement "$venv/env.requirements" --constraint "$venv/env.constraints"
if ! reason=$("$py" -c 'import cv2' 2>&1); then
    say "OpenCV does not load (${reason##*$'\n'}); its build without windows takes its place"
    version=$("$py" -c 'import importlib.metadata as m; print(m.version("opencv-python"))')
    quiet pip install --force-reinstall --no-deps "opencv-python-headless==$version"
fi

if ! "$py" "$check" mmcv >/dev/null 2>&1; then install_mmcv; fi

reason=$("$py" "$check" packages "$family" 2>&1) || fail "$venv is not as it should be: $reason" "Start over: rm -rf $venv"
echo "$inputs" >"$stamp"
say "$venv is ready ($family), after $((SECONDS / 60)) min $((SECONDS % 60)) s"
