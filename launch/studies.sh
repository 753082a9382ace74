#!/usr/bin/env bash
# The documents' studies, from data to one page of tables, charts and findings.
#   bash launch/studies.sh [DIR] --photos=FOLDER [--quick|--full] [--only=NAME,...]
#       [--seeds=N] [--print] [--page=FILE]
# All it writes but the environment lies under DIR (studies_out/ by default). It forges
# its data from the photographs in FOLDER; --full takes shards in DIR/shards instead,
# for GPUs. What is done already is skipped, and what was interrupted goes on.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/env.sh"

dir=studies_out rest=()
for argument in "$@"; do
    case $argument in
        --photos=*) rest+=("--photos=$(realpath -m "${argument#*=}")") ;;
        --page=*) rest+=("--page=$(realpath -m "${argument#*=}")") ;;
        -*) rest+=("$argument") ;;
        *) dir=$argument ;;
    esac
done
dir=$(realpath -m "$dir")
cd "$root"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$dir/cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1

environment requirements.txt
exec "$py" -m studies "$dir" "${rest[@]}"
