# The terminal screen of the real program in tmux: a chat at three sizes, resizing while the answer
# streams, an external editor, SIGKILL in the middle of an answer, a terminal that goes away.
. "$(dirname "$0")/lib.sh"
if ! command -v tmux >/dev/null; then
    skip tui "tmux is missing"
    exit 0
fi
[ -x "$DOGEAR" ] || { echo "Bail out! no program at $DOGEAR"; exit 1; }
fake=$work/fake.txt
cat >"$fake" <<'S'
ctx 8192
rate 10
say # Herons\n\nA heron is a **long-legged** wading bird.\n\n```c\nint legs = 2;\n```\n\n- stands still\n- strikes fast 中文\n\nThat is all.
on slow
rate 100
say one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty twenty-one twenty-two twenty-three twenty-four twenty-five twenty-six twenty-seven twenty-eight twenty-nine thirty thirty-one thirty-two thirty-three thirty-four thirty-five thirty-six thirty-seven thirty-eight thirty-nine forty
on far
rate 400
say one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty twenty-one twenty-two twenty-three twenty-four twenty-five twenty-six twenty-seven twenty-eight twenty-nine thirty thirty-one thirty-two thirty-three thirty-four thirty-five thirty-six thirty-seven thirty-eight thirty-nine forty
on later
wait 4000
rate 0
say it came
S
n_server=0 # a new socket for each: a server that is just ending can not be asked for a session
tm() { tmux -L "dogear$$-$n_server" -f /dev/null "$@"; }
at_exit+=('tm kill-server 2>/dev/null')

# start COLS ROWS: the program in a fresh server, its exit status to $work/rc
start() {
    tm kill-server 2>/dev/null
    n_server=$((n_server + 1))
    rm -f "$work/rc"
    # The server outlives the program by a moment, so that the last screen can be looked at.
    tm new-session -d -x "$1" -y "$2" "cd '$work'; sh -c 'echo \$\$ >pid; exec \"$DOGEAR\" --fake fake.txt 2>err'; echo \$? >rc; sleep 5"
    has 'Type a message'
}
screen() { tm capture-pane -p >"$work/out" 2>/dev/null; }
shows() { screen && grep -qF -- "$1" "$work/out"; }
gone() { screen && ! grep -qF -- "$1" "$work/out"; }
has() { wait_for 20 shows "$1"; }
keys() { tm send-keys "$@"; }

for size in '80 24' '120 40' '200 60'; do
    # shellcheck disable=SC2086
    start $size
    ok "tui__start__${size/ /x}"
    keys -l 'Tell me about herons'
    has '› Tell me about herons' && keys Enter && has 'That is all.' && has '▌ Tell me about herons' &&
        has 'long-legged wading' && has '── c ──' && has '• strikes fast 中文' && has 'ctx '
    ok "tui__turn__${size/ /x}"
    [ "$(wc -l <"$work/out")" -eq "${size#* }" ] && ! grep -qE '\*\*|```' "$work/out"
    ok "tui__markdown__no_marks_left_${size/ /x}"
    keys C-d
    wait_for 20 test -f "$work/rc" && [ "$(cat "$work/rc")" = 0 ] && [ ! -s "$work/err" ]
    ok "tui__ctrl_d__clean_exit_${size/ /x}"
done

start 80 24
keys -l 'slow please'
keys Enter
has 'one two'
tm resize-window -x 60 -y 15 && has 'three four' && tm resize-window -x 150 -y 50 && has 'Conversations' &&
    tm resize-window -x 80 -y 24 && has 'six seven' && wait_for 20 gone Conversations
ok tui__resize__while_streaming
keys -l 'next thought'
keys Enter
has 'still answering' && has '› next thought'
ok tui__send__busy_keeps_text
keys C-c
has 'stopped here' && has '› next thought'
ok tui__ctrl_c__stops_first

cat >"$work/ed.sh" <<'S'
#!/bin/sh
printf 'from the editor\nsecond line' >"$1"
S
chmod +x "$work/ed.sh"
tm kill-server
export VISUAL=$work/ed.sh
start 80 24
wait_for 20 shows 'next thought'
ok tui__draft__survives_the_terminal
keys C-g
has '› from the editor' && has 'second line'
ok tui__ctrl_g__external_editor
keys Enter
has '▌ second line' && has 'That is all.'
keys -l 'slow again'
keys Enter
has 'one two three'
wait_for 20 stored 'one two' # within about a second
kill -KILL "$(cat "$work/pid")"
wait_for 20 test -f "$work/rc"
start 80 24
keys Tab
has 'Conversations' && keys Enter && has '▌ slow again' && has 'one two' && has 'stopped here'
ok tui__sigkill__question_whole_answer_to_the_last_second
keys C-d
wait_for 20 test -f "$work/rc"

# an answer that is not looked at goes on, and to the store, all the same
start 80 24
keys -l 'going far away'
keys Enter
has 'one two'
keys -l /new
keys Enter
has 'New conversation' && has 'F1 help'
keys -l 'meanwhile'
keys Enter
has 'waits for going far away' && has 'Esc takes it back' && keys Tab && has 'going far away' && has ' writing' &&
    has ' waits' && keys Escape && wait_for 20 gone Conversations && keys C-c && has 'stopped before the first word' && has '▌ meanwhile'
ok tui__background__a_second_question_waits_and_is_taken_back
dogear list --json && far=$(json "$work/out" '[r["id"] for r in j if r["title"] == "going far away"][0]') &&
    dogear show "$far" && [ "$(wc -w <"$work/out")" -gt 4 ] && before=$(wc -w <"$work/out") && grew() { dogear show "$far" && [ "$(wc -w <"$work/out")" -gt "$before" ]; } && wait_for 20 grew
ok tui__background__is_stored_as_it_comes
kill -KILL "$(cat "$work/pid")"
wait_for 20 test -f "$work/rc"
dogear show "$far" && grep -q 'one two three' "$work/out" && ! grep -q forty "$work/out"
ok tui__sigkill__background_answer_to_the_last_second
start 80 24
keys -l 'tell me later'
keys Enter
has 'Esc stops'
keys -l /new
keys Enter
has 'New conversation' && has '"tell me later" is done' && gone 'it came'
ok tui__background__its_end_is_told_where_there_is_no_list
keys Tab
has ' new ' && keys Enter && has 'it came' && keys Tab && has 'Conversations' && gone ' new '
ok tui__background__is_new_until_it_is_looked_at
keys Escape
keys C-d
wait_for 20 test -f "$work/rc"

start 80 24
keys -l 'shared by two'
keys Enter
has 'That is all.' && dogear list --json && shared=$(json "$work/out" 'j[0]["id"]') &&
    dogear ask --fake "$fake" -r "$shared" slow and said elsewhere && has 'said elsewhere' && has forty
ok tui__another_process__its_turn_appears
keys -l 'not yet sent'
dogear rm -y "$shared" && has 'deleted by another' && grep -qF 'ctx --' "$work/out" && has '› not yet sent' && wait_for 20 gone 'said elsewhere'
ok tui__another_process__deleted_chat_is_told_draft_stays
keys Enter
has '▌ not yet sent' && has 'That is all.'
ok tui__another_process__a_new_chat_goes_on
keys C-d
wait_for 20 test -f "$work/rc"

start 80 24
keys -l 'Hello!'
keys Enter
has 'That is all.' && keys -l /export && keys Enter && has 'written to Hello.md' && keys -l /export && keys Enter &&
    has 'written to Hello-2.md' && keys -l '/export x.json' && keys Enter && has 'written to x.json' &&
    cmp "$work/Hello.md" "$work/Hello-2.md" && [ "$(json "$work/x.json" 'len(j)')" -gt 0 ] &&
    keys -l '/export x.json' && keys Enter && has 'cannot write x.json: File exists'
ok tui__export__format_by_ending_and_a_free_name
keys C-d
wait_for 20 test -f "$work/rc"

# what another model wrote does not bear this one's name; the chat is then the one's that goes on
cat >"$work/other.json" <<'S'
{"dogear": 1, "conversations": [{"title": "From elsewhere", "model": "Other", "leaf": 1, "messages": [
  {"parent": -1, "role": "user", "text": "Who are you?", "done": true},
  {"parent": 0, "role": "assistant", "text": "Somebody else.", "done": true, "stop": "eos"}]}]}
S
dogear import "$work/other.json" && dogear list --json && other=$(json "$work/out" '[r["id"] for r in j if r["model"] == "Other"][0]') &&
    start 80 24 && keys -l "/switch $other" && keys Enter && has 'Somebody else.' && shows '  Assistant' && gone '  Fake' &&
    keys -l 'And you?' && keys Enter && has 'That is all.' && has '  Fake' && dogear show "$other" --json &&
    [ "$(json "$work/out" 'j["model"]')" = Fake ]
ok tui__another_model__answers_are_told_apart
keys C-d
wait_for 20 test -f "$work/rc"

# an editor that is stopped gives the shell back, and goes on with it
printf '#!/bin/sh\nkill -TSTP 0\nsleep .1\nprintf "from a stopped one" >"$1"\n' >"$work/stops.sh"
chmod +x "$work/stops.sh"
tm kill-server
n_server=$((n_server + 1))
tm new-session -d -x 80 -y 24 "cd '$work'; PS1='shell> ' VISUAL='$work/stops.sh' bash --norc -i"
has 'shell>'
keys -l "$DOGEAR --fake fake.txt"
keys Enter
has 'Type a message'
keys C-g
has 'Stopped' && keys -l fg && keys Enter && has '› from a stopped one'
ok tui__ctrl_z__in_the_editor_stops_both
keys C-z
has 'Stopped' && wait_for 20 gone '› from a stopped one' && keys -l fg && keys Enter && has '› from a stopped one'
ok tui__ctrl_z__stops_and_goes_on
tm kill-server

dogear --fake "$fake" chat
[ $rc -ne 0 ] && one_line_error
ok tui__no_terminal__one_line
