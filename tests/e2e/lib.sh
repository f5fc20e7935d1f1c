# Sourced by the end-to-end scripts: a private home, TAP output, polling with a deadline.
# DOGEAR is the binary, DOGEAR_DATA the folder of test material (may be absent).
set -u
work=$(mktemp -d)
export HOME=$work XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/config XDG_STATE_HOME=$work/state \
    XDG_CACHE_HOME=$work/cache LC_ALL=C.UTF-8 TERM=xterm-256color SHELL=/bin/sh
unset NO_COLOR KERNELS LLAMA_CACHE HF_HOME HF_HUB_CACHE OLLAMA_MODELS
n_case=0 n_bad=0
at_exit=()
limit_s=${LIMIT_S:-120} # of one run: then it hangs

finish() {
    local c
    for c in "${at_exit[@]:-}"; do eval "$c"; done
    rm -rf "$work"
    echo "1..$n_case"
    [ "$n_bad" -eq 0 ]
}
trap finish EXIT

# ok NAME: records the status of the command before it
ok() {
    local rc=$? name=$1
    n_case=$((n_case + 1))
    if [ $rc -eq 0 ]; then echo "ok $n_case - $name"; else
        echo "not ok $n_case - $name"
        n_bad=$((n_bad + 1))
        [ -f "$work/out" ] && sed 's/^/# out: /' "$work/out" | tail -30
        [ -f "$work/err" ] && sed 's/^/# err: /' "$work/err" | tail -10
    fi
}

skip() {
    n_case=$((n_case + 1))
    echo "ok $n_case - $1 # SKIP $2"
}

# dogear ARGUMENTS: stdout to $work/out, stderr to $work/err, status in $rc
dogear() {
    rc=0
    timeout "$limit_s" "$DOGEAR" "$@" >"$work/out" 2>"$work/err" </dev/null || rc=$?
    return $rc
}

# dogear_in TEXT ARGUMENTS: the same with standard input
dogear_in() {
    rc=0
    local text=$1
    shift
    printf '%s' "$text" | timeout "$limit_s" "$DOGEAR" "$@" >"$work/out" 2>"$work/err" || rc=$?
    return $rc
}

# wait_for SECONDS COMMAND...: polls until the command succeeds
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.03
    done
}

# stored TEXT: the conversation used last holds it on disk
stored() {
    dogear list --json && dogear show "$(json "$work/out" 'j[0]["id"]')" && grep -qF -- "$1" "$work/out"
}

# json FILE EXPRESSION: a Python expression over j, printed
json() {
    python3 -c 'import json,sys; j=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

one_line_error() {
    [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^dogear: ' "$work/err" && [ ! -s "$work/out" ]
}
