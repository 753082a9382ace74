#!/usr/bin/env bash
# Sets up an environment, checks style, runs the tests.
#   bash launch/test.sh            the quick ones
#   bash launch/test.sh --slow     all of them
#   PYTHON=python3.12 bash launch/test.sh
#   bash launch/test.sh tests/test_losses.py -k dice     what pytest takes
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source launch/env.sh

select=(-m "not slow")
if [ "${1:-}" = --slow ]; then
    select=()
    shift
fi
environment requirements-dev.txt
# Without what it asks for, see docs/export.md; tests that need it skip without it.
"$py" -m pip install -q --no-deps "jax2onnx>=0.17.1" ||
    echo "No jax2onnx: what needs it is skipped." >&2
"$py" -m ruff check .
"$py" -m ruff format --check .
# As many processes as cores; eight of them are enough for any memory.
exec "$py" -m pytest -q -n logical --maxprocesses=8 --dist=worksteal \
    --jaxtyping-packages=sdfl_jax,tests.check "${select[@]}" "$@"
