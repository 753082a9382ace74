#!/usr/bin/env bash
# From photographs to the network `starter`: its weights, card and table.
#   bash launch/starter.sh --photos=DIR[:WEIGHT] [--photos=DIR[:WEIGHT]]...
#       [--dir=starter] [--steps=100000] [--real=LIST]
# Every --photos is a folder, drawn from as often as its weight says (1 by default),
# whatever its number of files; a tenth of its photographs is kept aside. --real is a
# list of images that people forged (see sdfl_jax/data/lists.py), to be scored at the
# end and never trained on. What is done already is skipped, and a run that was
# interrupted goes on; the same with more --steps goes on as well.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/env.sh"

photos=() dir=starter steps=100000 real=
for argument in "$@"; do
    case $argument in
        --photos=*)
            folder=${argument#*=} weight=
            if [[ $folder =~ ^(.*):([0-9.]+)$ ]]; then
                folder=${BASH_REMATCH[1]} weight=:${BASH_REMATCH[2]}
            fi
            photos+=("$(realpath -m "$folder")$weight") ;;
        --dir=*) dir=${argument#*=} ;;
        --steps=*) steps=${argument#*=} ;;
        --real=*) real=$(realpath -m "${argument#*=}") ;;
        *) echo "Error: $argument: takes --photos=DIR[:WEIGHT], --dir=DIR, --steps=N or --real=LIST." >&2; exit 2 ;;
    esac
done
if [ ${#photos[@]} = 0 ]; then
    echo "Error: give at least one --photos=DIR[:WEIGHT]." >&2
    exit 2
fi
stream=forge:$(IFS=,; echo "${photos[*]}")
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$root"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export JAX_COMPILATION_CACHE_DIR=$dir/cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1

environment requirements.txt
if [ ! -e "$dir/held_out/forgeries.csv" ]; then
    "$py" -m sdfl_jax.data.forge.held_out --photos="$stream" --out="$dir/held_out"
fi
if [ ! -e "$dir/val/manifest.json" ]; then
    "$py" -m sdfl_jax.data.build --paths_file="$dir/held_out/forgeries.csv" \
        --root="$dir/held_out" --out="$dir/val" --storage=original
fi
"$py" -m sdfl_jax.main --config="configs/starter.py:steps=$steps" \
    --workdir="$dir/run" --config.data.train="$stream" --config.data.val="$dir/val" \
    --allow_config_change
"$py" -m sdfl_jax.predict.ship --workdir="$dir/run" --out="$dir/network" \
    --lists="$dir/held_out/forgeries.csv,$dir/held_out/photographs.csv"
"$py" -m sdfl_jax.evaluate --workdir="$dir/network" --out="$dir/report" \
    --data="own=$dir/val" >/dev/null
if [ -n "$real" ]; then
    "$py" -m sdfl_jax.evaluate --workdir="$dir/network" --out="$dir/report_real" \
        --paths_file="real=$real" --root="$(dirname "$real")" >/dev/null
fi
for report in "$dir"/report*/report.md; do
    sed "/^## Protocol/,\$d" "$report"
done
echo "Weights and card: $dir/network; as the network of any command: --workdir=$dir/network"
