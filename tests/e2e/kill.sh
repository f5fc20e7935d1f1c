#!/usr/bin/env bash
# kill -9 of the real binary with the real engine at random moments: while it reads, answers, seals,
# thins, gives space back, migrates or deletes. After each: the store is sound and no message that
# was there before is lost; every few: a conversation can be taken up.
# KILLS says how many must have hit a run before its end (24; 1000 in the long tier), SEED makes the
# moments others.
. "$(dirname "$0")/lib.sh"
kills=${KILLS:-24}
limit_s=${LIMIT_S:-900} # hours beside other work, which may stop a run for minutes
RANDOM=${SEED:-1}
model=$(dirname "$0")/../../assets/model/dogear-memo.gguf
db=$work/store/dogear.db
mkdir -p "$work/store"
text="My dog is called Rex and my cat is called Tom. We live near the river, in a small house. "
for _ in 1 2 3 4 5; do text+=$text; done
formats=(exact 8/4 4/4 adaptive)
n_killed=0 n_resumed=0

# Measured once for a model, then kept: or every run would be killed while it measures.
dogear doctor --calibrate -m "$model"
ok kill__model__is_measured

declare -A span=([ask]=800 [other]=30) # milliseconds that such a run takes: learned below, on any machine

# run_and_kill ARGUMENTS...: in the background, killed at some moment of the time that its kind of run takes.
# One that ended before its kill took less than was waited; one killed late may take longer than thought.
run_and_kill() {
    local kind=other pid wait
    [ "$1" = ask ] && kind=ask
    wait=$((RANDOM % span[$kind] + 1))
    "$DOGEAR" "$@" --db "$db" >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    sleep "$((wait / 1000)).$(printf '%03d' $((wait % 1000)))"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    if [ $? -eq 137 ]; then
        n_killed=$((n_killed + 1))
        ((wait * 4 > span[$kind] * 3)) && span[$kind]=$((span[$kind] * 4 / 3 + 1))
    else
        span[$kind]=$wait
    fi
}

# every message of every conversation, one line each
messages() {
    dogear export all --format json --db "$db" || return 1
    python3 -c '
import json, sys
j = json.load(open(sys.argv[1]))
for c in j["conversations"] if isinstance(j, dict) else j:
    for m in c["messages"]:
        if m["role"] == "user":
            print(json.dumps(m["text"]))' "$work/out" | sort >"$work/now"
}

pick() { # a conversation that exists, or nothing
    dogear list --json --db "$db" >/dev/null && json "$work/out" "(lambda n: j[$RANDOM % n]['id'] if n else '')(len(j))"
}

one_kill() {
    local i=$1 id kv=${formats[RANDOM % 4]} deleted=
    id=$(pick)
    case $((RANDOM % 9)) in
    0 | 1) run_and_kill ask -m "$model" --kv "$kv" --temp 0 -n 200 "new $i: ${text:0:$((RANDOM % 2500))}" ;;
    2 | 3 | 4) run_and_kill ask -m "$model" --kv "$kv" --temp 0 -n 200 ${id:+-r "$id"} "more $i: ${text:0:$((RANDOM % 900))}" ;;
    5) [ -n "$id" ] && run_and_kill thin "$id" "$( ((RANDOM % 2)) && echo 4/4 || echo none)" ;;
    6) [ -n "$id" ] && run_and_kill list --store-budget "$((RANDOM % 900 + 50))K" ;;
    7) [ -n "$id" ] && run_and_kill fork "$id" ;;
    8)
        if ((RANDOM % 3 == 0)) && [ -n "$id" ]; then
            deleted=1
            run_and_kill rm -y "$id"
        else # as an older program left it: the columns are there, so only the step may be seen half done
            sqlite3 "$db" 'ALTER TABLE message DROP COLUMN vocab; PRAGMA user_version = 1' 2>/dev/null
            run_and_kill list
        fi
        ;;
    esac
    dogear doctor --json --db "$db" || { cp "$work/out" "$work/doctor"; return 1; }
    messages || return 1
    if [ -z "$deleted" ] && [ -n "$(comm -23 "$work/before" "$work/now")" ]; then
        echo "# kill $i lost: $(comm -23 "$work/before" "$work/now" | head -c 300)"
        return 1
    fi
    cp "$work/now" "$work/before"
    if ((i % 8 == 0)); then
        id=$(pick)
        [ -z "$id" ] && return 0
        dogear ask -m "$model" --kv "$kv" --temp 0 -n 4 -r "$id" "hello $i" --json --db "$db" || return 1
        n_resumed=$((n_resumed + 1))
        messages && cp "$work/now" "$work/before"
    fi
}

: >"$work/before"
# Runs that ended before their kill do not count; they make the next moments earlier.
sound=1
for ((i = 1; n_killed < kills && i <= 8 * kills; i++)); do
    one_kill $i || { sound=0; break; }
    ((i % 100)) || echo "# $i runs, $n_killed killed before their end, $n_resumed times taken up"
done
[ $sound -eq 1 ]
ok kill__any_moment__store_is_sound_and_complete
echo "# $((i - 1)) runs, $n_killed killed before their end, $n_resumed times taken up"
((n_killed == kills)) && ((kills < 8 || n_resumed > 0))
ok kill__moments__were_in_the_middle
dogear list --store-budget 0 --db "$db" && dogear doctor --db "$db" && grep -q 'text ok, cache ok' "$work/out"
ok kill__afterwards__cache_is_sound
