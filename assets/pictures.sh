#!/usr/bin/env bash
# Makes the README's two pictures again with the program and the bundled model as they are: the
# terminal's screen, which stands in README.md as text, and assets/desktop/window.png.
#   assets/pictures.sh [DOGEAR]     needs tmux, Xvfb and xdotool
# Answers are greedy; look at them before you commit: a picture shows what the model really said.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
dogear=$(realpath "${1:-$root/build/app/dogear}")
model=$root/assets/model/dogear-memo.gguf
short=("Hello!" "My dog is called Rex." "I live in Bergen." "What is my dog called?")
long=("Hello!" "My name is Anna and I live in Bergen." "My dog is called Rex." "It is rainy today."
    "My favorite color is green." "I had soup for lunch." "The office code is 77310."
    "My dentist appointment is on Tuesday at 9:30." "Tell me a joke." "The garage code is 48151."
    "I am tired." "My sister is called Greta." "We went for a walk along the river."
    "My cat is called Mimi." "It is sunny today." "My meeting is on Friday at 11:15."
    "Tell me another joke." "I like tea." "Actually, that changed. The garage code is 62342."
    "How are you?" "What is my dog called?" "What is the garage code?" "Where do I live?")

work=$(mktemp -d)
export HOME=$work XDG_CONFIG_HOME=$work/config XDG_STATE_HOME=$work/state XDG_CACHE_HOME=$work/cache \
    LC_ALL=C.UTF-8 TERM=xterm-256color
unset WAYLAND_DISPLAY SDL_VIDEODRIVER GDK_SCALE NO_COLOR
xvfb='' window=''
tm() { tmux -L "pictures$$" -f /dev/null "$@"; }
finish() {
    tm kill-server 2>/dev/null || true
    local p
    for p in $window $xvfb; do
        kill "$p" 2>/dev/null && wait "$p" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

# chat FOLDER MESSAGE...: one conversation in that folder
chat() {
    local resume=() message
    export XDG_DATA_HOME=$work/$1
    shift
    for message in "$@"; do
        printf '%s\n  %s\n' "$message" "$("$dogear" ask -m "$model" --temp 0 "${resume[@]}" "$message")" >&2
        resume=(-r)
    done
}
# until_shown TEXT COMMAND...: what the command prints has it
until_shown() {
    local text=$1 i
    shift
    for ((i = 0; i < 600; i++)); do
        if "$@" 2>/dev/null | grep -qF -- "$text"; then return; fi
        sleep 0.1
    done
    echo "pictures: \"$text\" never came" >&2
    exit 1
}

chat terminal "${short[@]:0:3}"
tm new-session -d -x 120 -y 45 "exec '$dogear' -m '$model' --temp 0 -r 1"
until_shown "${short[2]}" tm capture-pane -p
tm send-keys -l "${short[3]}"
tm send-keys Enter
until_shown 'tok/s' tm capture-pane -p
sleep 1
tm send-keys F2
until_shown Overview tm capture-pane -p
tm send-keys Tab Tab Tab
until_shown 'read again over' tm capture-pane -p
tm send-keys Right Right Right Right # to the name in "Your dog is called Rex."
sleep 1
until_shown 'read again over' tm capture-pane -p
tm capture-pane -p | sed 's/ *$//' >"$work/screen"
# the first block of the readme
awk -v screen="$work/screen" '
    /^```/ && ++fence == 1 { print; while ((getline line <screen) > 0) print line; skip = 1; next }
    /^```/ && fence == 2 { skip = 0 }
    !skip' "$root/README.md" >"$work/readme"
cp "$work/readme" "$root/README.md"

chat window "${long[@]:0:$((${#long[@]} - 2))}"
Xvfb -displayfd 3 -screen 0 1400x1000x24 -dpi 96 -nolisten tcp 3>"$work/display" 2>/dev/null &
xvfb=$!
until [ -s "$work/display" ]; do sleep 0.1; done
DISPLAY=:$(cat "$work/display")
export DISPLAY
"$dogear" desktop -m "$model" --temp 0 -r 1 --frame-text "$work/frame" &
window=$!
until_shown "${long[20]}" cat "$work/frame"
id=$(xdotool search --onlyvisible --class dogear | tail -1)
xdotool windowfocus "$id" mousemove --window "$id" 500 500 windowsize "$id" 1240 860
# say TEXT SHOWN: what is to be seen then, and that nothing is written any more
say() {
    xdotool type --delay 20 "$1"
    xdotool key Return
    until_shown "$2" cat "$work/frame"
    sleep 1
    until_shown 'F1 help' cat "$work/frame"
}
xdotool key F2
until_shown 'Cache in memory' cat "$work/frame"
say "${long[21]}" "${long[21]}"
say '/budget 800K' 'may take'
say "${long[22]}" "${long[22]}"
say /verify ' positions'
rm -f "$root/assets/desktop/window.png"
say "/screenshot $root/assets/desktop/window.png" 'written to'
