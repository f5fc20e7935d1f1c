#!/usr/bin/env bash
# What coming back to a long conversation takes, its file cached.
#   resume.sh DOGEAR MODEL STORE.db [REPEATS] [OPTIONS OF ask...]
# STORE.db holds it as number 1, once made with
#   DOGEAR ask --raw -m MODEL --kv 4/4 -c 17408 -n 1 --db STORE.db -f LONG_TEXT
# Each line: milliseconds from the message to its first token, of the whole process, and of a process
# that answers the same message without the conversation: that one loads the weights and no more.
set -eu
dogear=$1 model=$2 store=$3 n=${4:-5}
[ $# -gt 4 ] && shift 4 || set --
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
now() { date +%s%N; }
ask() { # ARGUMENTS...: sets ms (of the process) and ttft
    local begin
    begin=$(now)
    "$dogear" ask --raw -m "$model" --temp 0 -n 1 --json "$@" 'more now' >"$work/out"
    ms=$((($(now) - begin) / 1000000))
    ttft=$(python3 -c 'import json,sys; j=json.load(open(sys.argv[1]))
print("%.0f reused %d read %d" % (j["ttft_ms"], j["tokens_reused"], j["tokens_read"]))' "$work/out")
}
copy() {
    cp "$store" "$work/s.db"
    cp "${store%.db}-kv.db" "$work/s-kv.db"
}
for ((i = 0; i < n; i++)); do
    copy
    ask "$@" --db "$work/s.db" -r 1
    echo "resume: first token $ttft, process $ms"
    ask "$@" --no-save
    echo "fresh:  first token $ttft, process $ms"
done
copy
before=$(stat -c %s "$work/s.db" "$work/s-kv.db" | paste -sd+ | bc)
for ((i = 0; i < n; i++)); do
    begin=$(now)
    "$dogear" fork 1 --db "$work/s.db" >/dev/null
    forked=$(now)
    "$dogear" list --db "$work/s.db" >/dev/null
    echo "fork: process $(((forked - begin) / 1000000)), of list $((($(now) - forked) / 1000000))"
done
after=$(stat -c %s "$work/s.db" "$work/s-kv.db" | paste -sd+ | bc)
echo "bytes: $before, $n forks more $((after - before))"
