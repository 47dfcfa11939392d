#!/usr/bin/env bash
# Builds, checks and times the engine on this machine's GPU beside transformers and peft, within ten
# minutes, and prints the table last. Needs CUDA's compiler, gcc, make and a Python with torch,
# transformers and peft; nothing is fetched, and nothing is written outside the build directory and
# the results.
#
#   bench/gpu/run.sh [--out FILE] [--skip-peer] [flags of bench/gpu/stages.py]
#
# BUILD names the build directory (build-gpu), PYTHON and NVCC other programs than those on PATH,
# CUDA_VISIBLE_DEVICES another GPU than the first.
set -euo pipefail
cd "$(dirname "$0")/../.."

BUILD=${BUILD:-build-gpu}
PYTHON=${PYTHON:-python3}
NVCC=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}

lack() {
    echo "run.sh: $1" >&2
    exit 2
}

command -v gcc >/dev/null || lack "there is no gcc: install a C compiler (Debian: gcc)"
command -v make >/dev/null || lack "there is no make: install it (Debian: make)"
command -v "$NVCC" >/dev/null ||
    lack "there is no nvcc: install CUDA's toolkit, or name its compiler: NVCC=PATH"
command -v "$PYTHON" >/dev/null || lack "there is no $PYTHON: name a Python: PYTHON=PATH"
gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null | head -n 1) ||
    true
[ -n "$gpu" ] || lack "nvidia-smi finds no GPU: this needs one and NVIDIA's driver"
case " $* " in
*" --skip-peer "*) ;;
*) "$PYTHON" -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("torch", "transformers", "peft"))))' ||
    lack "$PYTHON has no torch, transformers and peft: name one that has (PYTHON=PATH), or \
leave the peer out (--skip-peer)" ;;
esac

# For this card alone: a compilation for each takes as long.
arch=${gpu##*, }
arch=${arch/./}
[ "$arch" != 90 ] || arch=90a
began=$SECONDS
echo "building for ${gpu%, *} (sm_$arch) in $BUILD" >&2
# Without the warnings of a compiler that nobody here has seen.
make -j"$(nproc)" BUILD="$BUILD" NVCC="$NVCC" CUDA_ARCHS="$arch" WARN= "$BUILD/gpu-bench" >&2
echo "build: $((SECONDS - began)) s" >&2

exec "$PYTHON" bench/gpu/stages.py --program "$BUILD/gpu-bench" --card "${gpu%, *}" \
    --spent "$SECONDS" "$@"
