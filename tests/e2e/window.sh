# The desktop window of the real program on an X server without a screen, driven with real key and
# mouse events: chat, stop, switch, search, fork, selection and clipboard, dashboard and its hover
# values, zoom, themes, pictures, while another process reads the same database.
. "$(dirname "$0")/lib.sh"
for tool in Xvfb xdotool; do
    command -v $tool >/dev/null || { skip window "$tool is missing"; exit 0; }
done
export LSAN_OPTIONS=suppressions=$(cd "$(dirname "$0")" && pwd)/leaks.supp:print_suppressions=0
fake=$work/fake.txt
cat >"$fake" <<'S'
ctx 8192
rate 5
say # Herons\n\nA heron is a **long-legged** wading bird that stands still for a very long time before it strikes.\n\n```c\nint legs = 2;\nreturn legs;\n```\n\nThat is all.
on slow
prefill 2000 400
rate 150
say one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
on figures
stat kv_bytes 33554432
stat kv_chat_bytes 25165824
stat kv_f16_bytes 100663296
stat kv_budget_bytes 268435456
stat bytes_per_tok 6144
stat tier0 2097152
stat tier1 8388608
stat tier4 14680064
stat kl_measured 0.004
stat top1_measured 0.985
choice 0.8312
trace 0.25 1 3 1
agree 0.03 2
prefill 2000 300
say told
rate 60
S

unset WAYLAND_DISPLAY DISPLAY SDL_VIDEODRIVER GDK_SCALE
dogear desktop --fake "$fake"
[ $rc -eq 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^dogear desktop: no display' "$work/err"
ok window__no_display__one_line
DISPLAY=:6553 dogear desktop --fake "$fake"
[ $rc -eq 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^dogear desktop: no display.*6553' "$work/err"
ok window__display_that_is_not_there__one_line

# -noreset: a server that begins anew after its last window refuses whoever comes meanwhile
Xvfb -displayfd 3 -screen 0 1400x1000x24 -dpi 96 -nolisten tcp -noreset 3>"$work/display" 2>/dev/null &
xvfb=$!
at_exit+=("kill $xvfb 2>/dev/null")
wait_for 20 test -s "$work/display"
DISPLAY=:$(cat "$work/display")
export DISPLAY

dogear desktop --no-save --fake "$fake" --screenshot /nope/w.png
[ $rc -eq 1 ] && one_line_error && grep -q 'cannot write /nope/w.png: No such file' "$work/err" &&
    dogear desktop --no-save --fake "$fake" --screenshot "$work/w.png" && [ -s "$work/w.png" ] && [ ! -s "$work/err" ]
ok window__screenshot_option__failure_is_told

frame=$work/frame
# has TEXT: waits until the window shows it; what it shows instead is told
has() {
    wait_for 60 grep -qF -- "$1" "$frame" && return
    { echo "no \"$1\" in:"; cat "$frame"; } >"$work/out"
    return 1
}
none_of() { ! grep -qF -- "$1" "$frame"; }
gone() { wait_for 60 none_of "$1"; }
keys() { xdotool key --delay 30 "$@"; }
type_() { xdotool type --delay 15 "$1"; }

find_window() {
    id=$(xdotool search --onlyvisible --class dogear 2>/dev/null | tail -1)
    [ -n "$id" ]
}

# start ARGUMENTS: opens the window; its id in $id, its process in $pid
start() {
    rm -f "$frame" "$work/rc"
    (cd "$work" && exec "$DOGEAR" desktop --frame-text "$frame" --frame-log "$work/frames.log" "$@" 2>"$work/err") &
    pid=$!
    at_exit+=("kill $pid 2>/dev/null")
    wait_for 60 test -s "$frame"
    wait_for 60 find_window
    xdotool windowfocus "$id" mousemove --window "$id" 600 500
}

# at COLUMN ROW: moves the pointer to the middle of a cell
at() {
    local cols rows width height
    read -r cols rows <"$frame"
    eval "$(xdotool getwindowgeometry --shell "$id" | grep -E 'WIDTH|HEIGHT')"
    width=$WIDTH height=$HEIGHT
    xdotool mousemove --window "$id" $(((2 * $1 + 1) * width / cols / 2)) $(((2 * $2 + 1) * height / rows / 2))
    sleep 0.1
}

# place TEXT: column and row where the first row that has it shows it
place() {
    local line row=0
    while IFS= read -r line; do
        if [ $row -gt 0 ] && [[ $line == *"$1"* ]]; then
            line=${line%%"$1"*}
            echo ${#line} $((row - 1))
            return 0
        fi
        row=$((row + 1))
    done <"$frame"
    return 1
}

# picture NAME: a screenshot of the window
picture() {
    rm -f "$work/$1.png"
    type_ "/screenshot $work/$1.png"
    keys Return
    has "written to $work/$1.png"
}
pixels() { "$PICTURE" "$work/$1.png" "$2"; }

start --fake "$fake"
has 'Type a message' && [ -n "$id" ]
ok window__start__new_chat
! grep -E 'libGL|libLLVM' "/proc/$pid/maps" >"$work/out"
ok window__frames__go_to_x_without_opengl
type_ 'Tell me about herons'
has '› Tell me about herons' && keys Return && has 'That is all.' && has 'long-legged wading' && has '── c ──' && none_of '**'
ok window__turn__streams_markdown
wait_for 10 test "$(xdotool getwindowname "$id")" = 'Tell me about herons · Dogear'
ok window__title__follows_the_chat
dogear list --json
[ "$(json "$work/out" 'j[0]["title"]')" = 'Tell me about herons' ]
ok window__database__read_by_another_process

type_ 'slow please'
keys Return
has 'three four' && keys Escape && has 'stopped here' && none_of 'twenty'
ok window__escape__stops_the_answer

keys ctrl+n
has 'Type a message'
type_ 'A second chat'
keys Return
has 'That is all.' && has '▸ A second chat'
ok window__ctrl_n__second_chat
# shellcheck disable=SC2046
at $(place 'Tell me about') && xdotool click 1
has 'stopped here' && has '▸ Tell me about'
ok window__click__switches_chats
type_ 'slow and left'
keys Return
# shellcheck disable=SC2046
has 'Esc stops' && at $(place 'A second chat') && xdotool click 1 && has '▸ A second chat' && has 'writing' && has 'F1 help' &&
    gone 'writing' && has ' new ' && none_of twenty
ok window__click__the_answer_that_was_left_goes_on
# shellcheck disable=SC2046
at $(place 'Tell me about') && xdotool click 1
has '▸ Tell me about' && has 'nineteen twenty' && gone ' new '
ok window__click__what_is_new_is_looked_at
keys ctrl+s
has 'Enter opens'
type_ 'second'
# shellcheck disable=SC2046
wait_for 20 grep -q '│.*A second chat' "$frame" && sleep 0.3 && at $(place 'A second chat') && none_of 'zzz'
keys Return
gone 'Enter opens' && has '▸ A second chat'
ok window__search__opens_what_was_found
type_ '/fork'
keys Return
has 'shares everything' && dogear list --json && [ "$(json "$work/out" 'len(j)')" = 3 ]
ok window__fork__a_third_chat

# The middle of the answer by mouse, to the clipboard and back into the editor.
read -r x y <<<"$(place 'A heron is')"
at "$x" "$y" && xdotool mousedown 1 && at $((x + 30)) $((y)) && at $((x + 40)) $((y + 1)) && at 300 $((y + 1)) && xdotool mouseup 1
keys ctrl+c
has 'copied what is selected' && keys ctrl+v
has '› A heron is a long-legged wading bird that stands still' && [ "$(grep -c 'before it strikes' "$frame")" = 2 ]
ok window__drag__copies_and_pastes
keys ctrl+a BackSpace
gone '› A heron'
ok window__select_all__backspace_clears
keys ctrl+z
has '› A heron' && keys ctrl+a && type_ 'x' && has '› x' && keys BackSpace
ok window__undo__and_typing_replaces
read -r x y <<<"$(place 'long-legged')"
at $((x + 2)) "$y" && xdotool click --repeat 2 --delay 60 1
keys ctrl+c
has 'copied' && keys ctrl+v && has '› long' && keys ctrl+a BackSpace
ok window__double_click__takes_a_word
read -r x y <<<"$(place 'long-legged')"
at "$x" "$y" && xdotool click 3
has 'y copies' && keys Escape && gone 'y copies'
ok window__right_click__chooses_the_message

picture plain
keys F2
has 'Cache' && has 'this chat --'
ok window__dashboard__unknown_is_dashes
type_ 'figures'
keys Return
has 'told' && has '24.0 MiB' && picture dash
# f16, 8/8 and 4/4 of the dark theme: as large as their shares, next to none before
a=$(pixels dash 7fb4ca) b=$(pixels dash 7dc4a5) c=$(pixels dash e5c07b)
[ "$b" -gt 500 ] && [ "$c" -gt "$b" ] && [ "$a" -gt 200 ] && [ "$(pixels plain 7dc4a5)" -lt 100 ]
ok window__dashboard__tiers_are_drawn
read -r x y <<<"$(place '■ f16')"
at $((x + 20)) $((y - 1)) && sleep 0.5 && keys F12 && has 'written to dogear-2'
at 60 30
[ "$("$PICTURE" "$work"/dogear-2*.png "$work/dash.png")" -gt 1000 ]
ok window__hover__shows_the_value
keys F2 # the keys go to the dashboard
has '‹ 256 MiB ›' && keys Right && has '‹ 384 MiB ›' && has 'MiB of 384 MiB'
ok window__budget__by_key
read -r x y <<<"$(place '‹ 384 MiB ›')"
at "$x" "$y" && xdotool click 1
has '‹ 256 MiB ›'
ok window__budget__by_mouse
at_text() {
    local x y
    read -r x y <<<"$(place "$1")"
    at $((x + ${2:-1})) "$y"
}
at_text 'coverage ‹' 10 && xdotool click 1
has '‹ 0.99 ›'
ok window__coverage__by_mouse
at_text ' verify ' 3 && xdotool click 1
has 'verify: ' && at_text 'verify: ' 3 && xdotool click 1
has '(stopped)' && gone 'verify: '
ok window__verify__stopped_by_mouse
at_text ' verify ' 3 && xdotool click 1
has 'every first choice' || has 'same first choice'
ok window__verify__by_mouse

# The inspector: a page by its tab, a token by a click, disagreement, the heat line's values.
at_text '  Answer' 3 && xdotool click 1
has 'Last answer' && has 'read again over 194 tokens' && has 'chosen    "t"' && has ' choice, KL 0.03'
ok window__inspector__first_token
at_text 'told' 2 && xdotool click 1
has 'chosen    "l"' && has 'read again over 196 tokens'
ok window__inspector__token_by_mouse
keys Return
has '■KL<0.01 ■<0.05 ■<0.2 ■more' && has '■another choice'
ok window__inspector__by_disagreement
picture inspector && at_text 'looked at' 30 && sleep 0.5 && rm -f "$work"/dogear-2*.png && keys F12 && has 'written to dogear-2'
at 60 30
[ "$("$PICTURE" "$work"/dogear-2*.png "$work/inspector.png")" -gt 500 ]
ok window__inspector__hover_tells_the_tokens
at_text 'Overview' 3 && xdotool click 1
keys F2
gone 'Cache'

read -r cols rows <"$frame"
keys ctrl+plus ctrl+plus ctrl+plus
wait_for 20 bash -c "read -r c r <'$frame'; [ \$c -lt $((cols * 85 / 100)) ]" && has 'A heron'
ok window__zoom__larger
keys ctrl+0
wait_for 20 grep -qx "$cols $rows" "$frame"
ok window__zoom__back
xdotool windowsize "$id" 700 500
wait_for 20 bash -c "read -r c r <'$frame'; [ \$c -lt 80 ]" && has 'That is all.' && none_of 'Conversations'
ok window__resize__reflows
xdotool windowsize "$id" 1200 800
wait_for 20 bash -c "read -r c r <'$frame'; [ \$c -gt 100 ]"
type_ '/theme light'
keys Return
sleep 0.3
picture light && [ "$(pixels light fcfcfd)" -gt 400000 ] && [ "$(pixels plain 1b1e24)" -gt 400000 ]
ok window__theme__light
picture light2 && [ "$("$PICTURE" "$work/light.png" "$work/light2.png")" -lt 3000 ]
ok window__picture__the_same_again

# Nothing happens, nothing is computed: clock ticks (1/100 s) of the process.
gone 'written to'
ticks() { awk '{print $14 + $15}' "/proc/$pid/stat"; }
still() { # beside other work what came before may be drawn late
    local before
    before=$(ticks)
    sleep 1
    [ "$(ticks)" -eq "$before" ]
}
for _ in 1 2 3 4 5 6 7 8 9 10; do
    still && break
done
before=$(ticks)
sleep 4
after=$(ticks)
[ $((after - before)) -le 4 ]
ok window__idle__uses_nothing

keys F10
wait "$pid"
[ $? -eq 0 ] && [ ! -s "$work/err" ]
ok window__quit__clean
sort -g -k2 "$work/frames.log" | tail -8 | sed "s/^/# /"
echo "# frames: $(wc -l <"$work/frames.log"), of this thread at most $(awk '{print $2}' "$work/frames.log" | sort -g | tail -1) ms"

start --fake "$fake"
has 'A second chat' && type_ 'not sent yet'
has '› not sent yet' && kill -KILL $pid
wait "$pid" 2>/dev/null
sleep 1.7
start --fake "$fake"
has 'Type a message' && xdotool windowquit "$id" 2>/dev/null || kill "$pid"
wait "$pid"
ok window__close__ends_the_program

model=$(cd "$(dirname "$0")/../.." && pwd)/assets/model/dogear-memo.gguf
if [ -f "$model" ]; then
    start -m "$model" --temp 0
    has 'Dogear Memo' && type_ 'Hello! How are you today?'
    keys Return
    wait_for 60 grep -q 'tok/s.*read [0-9]' "$frame" && has 'Hello! How are y'
    ok window__bundled_model__answers
    keys F2
    has 'Fidelity' && type_ '/verify'
    keys Return
    has ' positions'
    ok window__verify__measured
    keys ctrl+d
    wait "$pid"
else
    skip window__bundled_model__answers "no bundled model"
fi

(cd "$work" && "$DOGEAR" desktop -m "$work/none.gguf" 2>"$work/err"; echo $? >"$work/rc") &
press_a_key() {
    find_window && xdotool windowfocus "$id" key Return
    test -f "$work/rc"
}
wait_for 60 find_window && [ ! -f "$work/rc" ] && wait_for 60 press_a_key
[ "$(cat "$work/rc")" = 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q 'none.gguf' "$work/err"
ok window__no_model__says_so_and_waits

GDK_SCALE=2 start --fake "$fake"
has 'Type a message'
read -r cols rows <"$frame"
[ "$cols" -lt 80 ] || { head -1 "$frame" >"$work/out"; false; }
ok window__hidpi__larger_letters
kill "$pid"
wait "$pid" 2>/dev/null
