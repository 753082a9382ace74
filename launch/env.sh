# Sourced by the other scripts: `environment REQUIREMENTS` makes or reuses a virtual
# environment for $PYTHON and puts its Python into $py.

environment() {
    local requirements=$1 version stamp
    if [ -z "${PYTHON:-}" ]; then
        for PYTHON in python3.11 python3.12 python3 python; do
            "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
                2>/dev/null && break
            PYTHON=
        done
    fi
    if ! version=$("${PYTHON:-none}" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null); then
        echo "Error: Python 3.11 or newer is needed; PYTHON=/path/to/python3.11 names one." >&2
        exit 2
    fi
    venv=${VENV:-$root/.venv-$version}
    py=$venv/bin/python
    # Made anew when the requirements change; reused otherwise.
    stamp=$venv/$(basename "$requirements").installed
    if ! cat "$root"/requirements*.txt | cmp -s - "$stamp"; then
        "$PYTHON" -m venv "$venv"
        "$py" -m pip install -q --upgrade pip
        "$py" -m pip install -q --prefer-binary -r "$requirements"
        cat "$root"/requirements*.txt >"$stamp"
    fi
}
