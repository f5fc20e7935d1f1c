#!/bin/sh
# embed.sh OUT NAME=FILE... : text files as C strings, so that the program runs from anywhere.
out=$1
shift
{
    for pair in "$@"; do
        printf 'extern const char %s[];\nconst char %s[] =\n' "${pair%%=*}" "${pair%%=*}"
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$/\\n"/' "${pair#*=}"
        printf ';\n'
    done
} >"$out"
