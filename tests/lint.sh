#!/usr/bin/env bash
# The house rules that a script can hold: include directions and file sizes.
# usage: lint.sh [ROOT]; exit 1 with one line per violation.
set -u
root=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
cd "$root" || exit 1
bad=0

complain() {
    echo "lint: $*"
    bad=1
}

# allowed FILE INCLUDE: whether a file of that room may see the header
allowed() {
    local file=$1 include=$2
    case $file in
    engine/base/*) [[ $include == engine/base/* ]] ;;
    kernels/*) [[ $include == kernels/* ]] ;;
    engine/*) [[ $include == engine/* || $include == kernels/kernels.h || $include == kernels/page.h || $include == kernels/limits.h || $include == kernels/score.h || $include == kernels/timed.h ]] ;;
    sessions/*) [[ $include == sessions/* || $include == engine/base/* ]] ;;
    ui/*) [[ $include == ui/* || $include == engine/base/* || $include == engine/stats.h ]] ;;
    app/*) [[ $include == app/* || $include == ui/* || $include == sessions/sessions.h || $include == engine/engine.h || $include == engine/stats.h || $include == engine/base/* ]] ;;
    *) true ;; # tests/ may see anything
    esac
}

while IFS=: read -r file line text; do
    include=${text#*\"}
    include=${include%%\"*}
    [[ $include == */* ]] || complain "$file:$line: include \"$include\" is not root-relative"
    allowed "$file" "$include" || complain "$file:$line: this room may not see $include"
done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"' --include='*.[ch]' --include='*.cc' --include='*.cu' --include='*.cuh' \
    app ui sessions engine kernels 2>/dev/null)

while read -r count file; do
    [ "$count" -le 1000 ] || complain "$file has $count lines: is it one room?"
done < <(find app ui sessions engine kernels tests assets -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py' 2>/dev/null |
    xargs -r wc -l | awk '$2 != "total"')

exit $bad
