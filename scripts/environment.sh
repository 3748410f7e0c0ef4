# Sourced by the scripts beside it: the checkout's own virtual environment, .venv.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# environment_with EXTRA: .venv with this package and one of its extras, made or mended only where it has to be.
environment_with() (
    # The demo and the tests may be started together. Where there is no flock, start them one after the other.
    if command -v flock >/dev/null; then flock 9; fi
    if ! is_sound; then create; fi
    if cmp -s pyproject.toml ".venv/has-$1"; then return; fi

    echo "Installing flask_dash_store[$1] into .venv ..."
    rm .venv/made-for # One that is interrupted must not be taken for a whole one.
    install_into_venv --editable ".[$1]"
    cp pyproject.toml ".venv/has-$1"
    if [[ $1 == dev ]]; then cp pyproject.toml .venv/has-demo; fi # It brings what the demo needs.
    identity >.venv/made-for
) 9<.

# uv takes seconds where pip takes a minute. It does not read pip's configuration, so where it finds no package pip goes on.
install_into_venv() {
    if command -v uv >/dev/null && uv pip install --quiet --python .venv/bin/python "$@"; then return; fi
    # The pip that comes with Python 3.11 otherwise warns of sqlitedict's setup.py.
    PIP_USE_PEP517=1 .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

# What a virtual environment is bound to: its Python, and its place.
identity() {
    .venv/bin/python -VV 2>&1 && pwd -P
}

is_sound() {
    cmp -s .venv/made-for <(identity)
}

create() {
    local python
    python=$(find_python)
    echo "Creating .venv with $("$python" -V) ..."
    rm -rf .venv
    "$python" -m venv .venv || fail \
        "$python could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"
    identity >.venv/made-for
}

find_python() {
    local python
    for python in ${PYTHON:+"$PYTHON"} python3 python3.{14,13,12,11} python; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    fail "Python 3.11 or later is needed, and none was found on PATH." \
        "Install one, or name it: PYTHON=/path/to/python3 $0"
}
