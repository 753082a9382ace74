#!/usr/bin/env bash
# Everything that waits for a GPU, the most valuable first, each part within its own time:
#   bash benchmarks/gpu.sh [--minutes=25] [--photos=DIR] [--out=benchmarks/results]
#   bash benchmarks/gpu.sh --dry --out=DIR      the same parts, tiny, on a CPU
# Needs an environment with requirements-gpu.txt (PYTHON=... names its python), no
# network. After each part OUT/DEVICE.json holds what was measured so far, whatever
# happens later; `python -m benchmarks.results --write=README.md` makes the table of it.
# With --photos the time that is left trains the network that ships, at batch 64; the
# run stays in OUT/starter and goes on with launch/starter.sh.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
py=${PYTHON:-python} minutes=25 photos= out=benchmarks/results dry=
for argument in "$@"; do
    case $argument in
        --dry) dry=1 ;;
        --minutes=*) minutes=${argument#*=} ;;
        --photos=*) photos=${argument#*=} ;;
        --out=*) out=${argument#*=} ;;
        *) echo "Error: $argument: takes --dry, --minutes=N, --photos=DIR or --out=DIR." >&2; exit 2 ;;
    esac
done
mkdir -p "$out" || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$dry" ]; then
    export JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1  # compiles sooner
else
    export JAX_PLATFORMS=cuda
fi
export JAX_COMPILATION_CACHE_DIR=$work/cache
end=$((SECONDS + minutes * 60))

# part NAME SECONDS COMMAND...: at most so long, and never beyond the end. What it writes
# to $work/NAME.json counts even where it was stopped.
part() {
    local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS status=0
    shift 2
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 10 ]; then
        echo "== $name: no time left"
        return
    fi
    echo "== $name (at most $limit s)"
    timeout --kill-after=20 "$limit" "$@" || status=$?
    "$py" -m benchmarks.results --add="$name" --figures="$work/$name.json" \
        --seconds=$((SECONDS - start)) --status=$status --out="$out" || exit 1
}

if [ -n "$dry" ]; then
    part kernel 600 "$py" -m pytest -q tests/test_pooling_kernel.py -k lower_for_cuda
    part train 600 "$py" -m benchmarks.train --network=demo --image_size=32 --batches=2 \
        --steps=1 --json="$work/train.json"
    part pooling 600 "$py" -m benchmarks.pooling --batches=1 --sizes=6 --dtypes=float32 \
        --turns=1 --moment=0.001 --no-torch --json="$work/pooling.json"
    part evaluate 600 "$py" -m benchmarks.evaluate --image_size=32 --images=4 --batch=2 \
        --turns=1 --json="$work/evaluate.json"
    exit 0
fi
part kernel 150 "$py" -m pytest -q tests/test_pooling_kernel.py -k gpu
part train 420 "$py" -m benchmarks.train --precisions=bfloat16 --batches=8,32,64 \
    --json="$work/train.json"
part pooling 240 "$py" -m benchmarks.pooling --batches=64,8 --sizes=32,16 \
    --json="$work/pooling.json"
part evaluate 240 "$py" -m benchmarks.evaluate --network=sdfl --batch=32 --images=256 \
    --json="$work/evaluate.json"
part train_float32 240 "$py" -m benchmarks.train --batches=8,32 \
    --json="$work/train_float32.json"
if [ -n "$photos" ]; then
    held=$out/starter/held_out val=$out/starter/val
    prepare() {
        [ -e "$val/manifest.json" ] && return
        "$py" -m sdfl_jax.data.forge.held_out --photos="forge:$photos" --out="$held" &&
            "$py" -m sdfl_jax.data.build --paths_file="$held/forgeries.csv" \
                --root="$held" --out="$val" --storage=original
    }
    prepare && part starter $((minutes * 60)) "$py" -m sdfl_jax.main \
        --config=configs/starter.py --workdir="$out/starter/run" \
        --config.batch_size=64 --config.data.workers=8 \
        --config.data.train="forge:$photos" --config.data.val="$val"
fi
exit 0
