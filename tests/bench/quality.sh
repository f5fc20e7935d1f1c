#!/usr/bin/env bash
# What compression costs a model, as tables: mean KL on a text, then recall by length and by turn of
# the suite's questions, where `adaptive` gets a quarter of what f16 takes for the length alone, turns and
# answers included; where that holds no such chat (README, "What a budget holds") the refusal is shown.
# usage: quality.sh [MODEL [TEXT]]
# DOGEAR names the binary; LENGTHS, PRESETS, SUITE (a file of items), ITEMS (at most so many of each
# length, evenly chosen), THREADS and DEADLINE (seconds from now; rows not begun by then are left out)
# may be set. PRESETS=papers: the published methods.
set -eu
cd "$(dirname "$0")/../.."
dogear=${DOGEAR:-build/app/dogear}
model=${1:-assets/model/dogear-memo.gguf}
text=${2-README.md}
suite=${SUITE:-assets/model/recall.jsonl}
lengths=${LENGTHS:-1024 2048 4096 8192}
presets=${PRESETS:-exact,8/8,8/4,4/4,adaptive}
threads=${THREADS:-2}
[ "$presets" = papers ] && presets=exact,q8_0,q4_0,kivi-4,kivi-2,zipcache,mikv,gear-l,kvquant,turboquant-4,turboquant-3,streamingllm,h2o,snapkv,pyramidkv,l2norm,lagkv
end=$(($(date +%s) + ${DEADLINE:-1000000}))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tok=$("$dogear" info "$model" --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["plan"]["kv_bytes_per_token"])')

[ -z "$text" ] || "$dogear" eval -t "$threads" -m "$model" --text "$text" -c 4096 --kv "$presets" \
    --kv-budget $((tok * 4096 / 4))
printf '\n%-14s %6s %8s %4s %8s  %s\n' preset length recall n B/token 'right by turn'
for n in $lengths; do
    grep "\"n_tok\":$n," "$suite" >"$work/all.jsonl" || continue
    awk -v most="${ITEMS:-1000000}" '{line[NR] = $0}
        END {k = NR < most ? NR : most; for (i = 0; i < k; i++) print line[int(i * NR / k) + 1]}' \
        "$work/all.jsonl" >"$work/some.jsonl"
    for kv in ${presets//,/ }; do
        [ "$(date +%s)" -lt "$end" ] || continue
        "$dogear" eval -t "$threads" -m "$model" --suite "$work/some.jsonl" -c "$n" --kv "$kv" \
            --kv-budget $((tok * n / 4)) --json >"$work/row.json" 2>"$work/err" ||
            { printf '%-14s %6d  %s\n' "$kv" "$n" "$(cat "$work/err")"; continue; }
        python3 - "$work/row.json" "$n" <<'P'
import json, sys
r = [x for x in json.load(open(sys.argv[1])) if x.get("breakdown")][0]
turns = sorted((int(k.split()[1]), v) for k, v in r["breakdown"].items() if k.startswith("turn "))
print("%-14s %6s %7.1f%% %4d %8s  %s%s" % (
    r["preset"], sys.argv[2], 100 * r["recall"], r["n_question"],
    "--" if r["bytes_per_token"] is None else "%.0f" % r["bytes_per_token"],
    " ".join("%d/%d" % (a, b) for _, (a, b) in turns),
    "  lossy" if r["lossy"] else "  simulated" if r["simulated"] else ""), flush=True)
P
    done
done
