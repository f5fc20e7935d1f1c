#!/bin/bash
# Our speed beside llama.cpp's: the same files, in turns, medians and their ratio.
#
#   beside.sh [-b DOGEAR] [-p LLAMA_BENCH] [-d DEPTH_TOOL] [-t THREADS] [-r ROUNDS] [-D DEPTHS [-K KV,...]] FILE.gguf...
#
# Without -p ours alone is measured. Every round runs 512 tokens of prompt and 32 of answer at depth 0,
# ours and theirs one after the other. With -D, and an exact cache: 16 tokens of answer, 32 appended
# tokens and a prompt's next 512 at each depth, with theirs from a program that fills their cache without
# reading a prompt (llama-bench would take minutes) and is called as
#   DEPTH_TOOL FILE f16 f16 FLASH_ATTENTION(0|1) N_PROMPT N_ANSWER REPEATS DEPTH
# and prints "tps":NUMBER; of its two settings the faster counts. A prompt of d tokens takes about the
# mean of its first and last 512, times d / 512: attention's part grows in a straight line.
# With -K answers of 16 tokens alone, by each of these formats of our cache against the same best of theirs.
set -u
dogear=build/app/dogear bench= tool= threads=2 rounds=3 depths= formats=
while getopts b:p:d:t:r:D:K: o; do
    case $o in
    b) dogear=$OPTARG ;;
    p) bench=$OPTARG ;;
    d) tool=$OPTARG ;;
    t) threads=$OPTARG ;;
    r) rounds=$OPTARG ;;
    D) depths=${OPTARG//,/ } ;;
    K) formats=${OPTARG//,/ } ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '4p' "$0" >&2; exit 2; }
seen=$(mktemp) || exit 1
trap 'rm -f "$seen"' EXIT

# say MODEL TEST SIDE VALUE: kept, and shown at once
say() { [ "$4" ] && echo "$*" | tee -a "$seen"; }

ours() { # MODEL FILE DEPTH ARGUMENTS: one line per test
    local model=$1 file=$2 depth=$3
    shift 3
    "$dogear" bench -m "$file" -t "$threads" --kv exact -d "$depth" -r 1 "$@" 2>/dev/null |
        awk '/^(pp|tg)/ {gsub(",", "", $2); print $1 "@" $2, $4}' | while read -r test value; do say "$model" "$test" ours "$value"; done
}

ours_by_format() { # MODEL FILE DEPTH
    local kv value
    for kv in $formats; do
        value=$("$dogear" bench -m "$2" -t "$threads" --kv "$kv" -d "$3" -r 1 -p 0 -n 16 2>/dev/null |
            awk '/^tg/ {print $4, "(" $7, "GB/s,", $NF, "of the limit)"}')
        echo "$1 tg16@$3 $kv $value" >&2
        say "$1" "tg16@$3,$kv" ours "${value%% *}"
    done
}

theirs_at() { # MODEL FILE DEPTH N_PROMPT N_ANSWER TEST
    local fa value test best=
    for fa in 0 1; do
        value=$("$tool" "$2" f16 f16 $fa "$4" "$5" 1 "$3" 2>/dev/null | sed -n 's/.*"tps":\([0-9.]*\).*/\1/p')
        best=$(printf '%s\n' $best $value | sort -g | tail -1)
    done
    for test in $6; do say "$1" "$test" theirs "$best"; done
}

for file in "$@"; do
    model=$(basename "$file" .gguf)
    if [ "$formats" ]; then
        for depth in $depths; do
            for _ in $(seq "$rounds"); do
                ours_by_format "$model" "$file" "$depth"
                [ "$tool" ] && theirs_at "$model" "$file" "$depth" 0 16 \
                    "$(for kv in $formats; do echo "tg16@$depth,$kv"; done)"
            done
        done
        continue
    fi
    for _ in $(seq "$rounds"); do
        ours "$model" "$file" 0 -p 512 -n 32
        [ "$bench" ] && "$bench" -m "$file" -t "$threads" -p 512 -n 32 -r 1 2>/dev/null |
            awk -F'|' '$7 ~ /pp|tg/ {gsub(/ /, "", $7); print $7 "@0", $8 + 0}' |
            while read -r test value; do say "$model" "$test" theirs "$value"; done
    done
    for depth in $depths; do
        for _ in $(seq "$rounds"); do
            ours "$model" "$file" "$depth" -p 32 -n 16
            [ "$tool" ] && theirs_at "$model" "$file" "$depth" 0 16 "tg16@$depth"
            [ "$tool" ] && theirs_at "$model" "$file" "$depth" 32 0 "pp32@$depth"
        done
        ours "$model" "$file" $((depth - 512)) -p 512 -n 0
        [ "$tool" ] && theirs_at "$model" "$file" $((depth - 512)) 512 0 "pp512@$((depth - 512))"
    done
done

printf '\n%-26s %-14s %10s %10s %7s\n' model test ours theirs ratio
sort "$seen" | awk '
    function median(list,   v, n, i, j, x) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++) {
            x = v[i]
            for (j = i - 1; j > 0 && v[j] + 0 > x + 0; j--) v[j + 1] = v[j]
            v[j + 1] = x
        }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    { at[$1 " " $2] = 1; all[$1 " " $2, $3] = all[$1 " " $2, $3] " " $4 }
    END {
        for (k in at) {
            split(k, name, " ")
            a = median(all[k, "ours"]); b = all[k, "theirs"] ? median(all[k, "theirs"]) : 0
            printf "%-26s %-14s %10.2f %10s %7s\n", name[1], name[2], a, b ? sprintf("%.2f", b) : "--", b ? sprintf("%.2f", a / b) : "--"
        }
    }' | sort
