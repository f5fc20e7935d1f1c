#!/usr/bin/env bash
# The command line on a small random model of every architecture. ARCHS writes them.
. "$(dirname "$0")/lib.sh"
mkdir -p "$work/models"
"$ARCHS" write "$work/models" || exit 1
for i in $(seq 60); do echo "line $i of a text that is long enough to be sealed"; done >"$work/long"
n=0 bad=0
wrong() {
    echo "# $name: $1 (rc $rc): $(head -c 300 "$work/err")"
    bad=1
}
for model in "$work"/models/*.gguf; do
    name=$(basename "$model" .gguf) n=$((n + 1))
    ask=(ask -m "$model" --temp 0 -n 12 --json)
    dogear info "$model" --json && [ "$(json "$work/out" 'j["model"]["layers"]')" = 6 ] || wrong info
    dogear "${ask[@]}" --db "$work/$name.db" "A first question, long enough to be kept." || wrong ask
    cp "$work/$name.db" "$work/$name-cold.db" # without the cache: all is read again
    dogear "${ask[@]}" --db "$work/$name.db" -r "And a second." &&
        [ "$(json "$work/out" 'j["tokens_reused"] > 40 and j["tokens_generated"] > 0')" = True ] || wrong "ask -r"
    warm=$(json "$work/out" 'j["answer"]')
    dogear "${ask[@]}" --db "$work/$name-cold.db" -r "And a second." &&
        [ "$(json "$work/out" 'j["tokens_reused"]')" = 0 ] && [ "$(json "$work/out" 'j["answer"]')" = "$warm" ] ||
        wrong "the same read again"
    dogear eval -m "$model" --text "$work/long" -c 400 --kv exact,8/8 --json &&
        [ "$(json "$work/out" 'j[0]["kl_mean"] == 0 < j[1]["kl_mean"] < 0.1')" = True ] || wrong eval
    dogear bench -m "$model" -p 70 -n 4 -r 1 --json &&
        [ "$(json "$work/out" 'min(r["tps_median"] for r in j) > 0')" = True ] || wrong bench
done
[ $bad -eq 0 ] && [ $n -ge 32 ]
ok archs__every_one__asks_and_comes_back
