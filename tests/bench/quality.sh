#!/usr/bin/env bash
# What compression costs a model, as tables: mean KL on a text, then recall at each length of the
# suite, where `adaptive` gets a quarter of what f16 takes once a chat is read.
# usage: quality.sh [MODEL [TEXT]]   DOGEAR names the binary; LENGTHS and PRESETS may be set
set -eu
cd "$(dirname "$0")/../.."
dogear=${DOGEAR:-build/app/dogear}
model=${1:-assets/model/dogear-memo.gguf}
text=${2:-README.md}
lengths=${LENGTHS:-1024 2048 4096 8192}
presets=${PRESETS:-exact,8/8,8/4,4/4}
tok=$("$dogear" info "$model" --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["plan"]["kv_bytes_per_token"])')

"$dogear" eval -m "$model" --text "$text" -c 4096 --kv "$presets"
for n in $lengths; do
    "$dogear" eval -m "$model" --suite recall -c "$n" --kv "$presets" |
        awk -v n="$n" 'NR == 1 || ($2 == "recall" && $3 == n)'
    # While a prompt is read, a chunk's rows stand beside its fresh pages: with the least chunk 420
    # tokens' worth of f16 that is free again afterwards; and 512 tokens are kept for answers.
    # B/token tells what a chat took at rest.
    "$dogear" eval -m "$model" --suite recall -c "$n" --kv adaptive \
        --kv-budget $((tok * ((n + 512) / 4 + 480))) |
        awk -v n="$n" '$2 == "recall" && $3 == n'
done
