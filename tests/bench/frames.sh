# How long frames of the window take while the engine has every core, and what it uses when nothing
# happens. For people, not for the suite: times depend on the machine.
#   frames.sh DOGEAR MODEL [SECONDS [IDLE]]   needs Xvfb, xdotool; prints one line per phase
# A frame's time runs from the moment the program wakes up for it until it is shown: wall is what a
# user waits, cpu what this thread computed; a busy machine stretches the first, not the second.
set -u
dogear=$(realpath "$1") model=$(realpath "$2") seconds=${3:-10} idle=${4:-10}
work=$(mktemp -d)
export HOME=$work XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/config XDG_STATE_HOME=$work/state \
    XDG_CACHE_HOME=$work/cache LC_ALL=C.UTF-8
unset WAYLAND_DISPLAY SDL_VIDEODRIVER
Xvfb -displayfd 3 -screen 0 1700x1300x24 -dpi 96 -nolisten tcp 3>"$work/display" 2>/dev/null &
xvfb=$!
pid=
trap 'kill $pid $xvfb 2>/dev/null; wait; rm -rf "$work"' EXIT
until [ -s "$work/display" ]; do sleep 0.1; done
DISPLAY=:$(cat "$work/display")
export DISPLAY
cd "$work" || exit 1
"$dogear" desktop -m "$model" --temp 1 --min-p 0 --frame-text "$work/frame" --frame-log "$work/log" 2>"$work/err" &
pid=$!
until id=$(xdotool search --onlyvisible --class dogear 2>/dev/null | tail -1) && [ -n "$id" ]; do sleep 0.1; done
until [ -s "$work/frame" ]; do sleep 0.1; done
xdotool windowfocus "$id" windowsize "$id" 1600 1200
sleep 1

ticks() { awk '{print $14 + $15}' "/proc/$pid/stat"; }
# report NAME: frames since the last one
report() {
    local n
    n=$(wc -l <"$work/log")
    tail -n +$((seen + 1)) "$work/log" | awk -v name="$1" '
        { wall[NR] = $1; cpu[NR] = $2; if ($1 > w) w = $1; if ($2 > c) c = $2; if ($2 > 50) over++; if ($1 > 50) late++ }
        END { printf "%-10s %4d frames  cpu: most %.1f ms, %d over 50  wall: most %.1f ms, %d over 50\n", name, NR, c, over, w, late }'
    seen=$n
}
seen=0
report open
xdotool type --delay 5 "Tell me a long story about a dog that walks along the river."
xdotool key Return
xdotool key F2
end=$((SECONDS + seconds)) i=0
while [ $SECONDS -lt $end ]; do # look around while it writes; a finished answer is asked for anew
    i=$((i + 1))
    xdotool mousemove --window "$id" $((1200 + i * 37 % 390)) $((30 + i * 53 % 1100))
    [ $((i % 6)) -ne 0 ] || xdotool key Tab
    [ $((i % 10)) -ne 0 ] || xdotool mousemove --window "$id" 600 500 click 5 click 4
    if [ $((i % 15)) -eq 0 ]; then
        xdotool type --delay 5 "And then?"
        xdotool key Return
    fi
    sleep 0.1
done
report busy
xdotool key Escape Escape
xdotool key ctrl+plus ctrl+plus ctrl+0
sleep 1
report zoom
[ "$idle" -gt 0 ] || exit 0
sleep 2
before=$(ticks) from=$(date +%s.%N)
sleep "$idle"
awk -v t=$(($(ticks) - before)) -v a="$from" -v b="$(date +%s.%N)" \
    'BEGIN { printf "idle       %.2f %% of a core over %.0f s, dashboard open\n", t / (b - a), b - a }'
