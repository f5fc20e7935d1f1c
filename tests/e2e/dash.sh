# The dashboard of the real program with the bundled model, in tmux at three sizes: what stands on
# the screen against counts of our own (the database, file sizes, /proc, the model's file, the shape
# of the cache), before and after its controls are used.
. "$(dirname "$0")/lib.sh"
for tool in tmux sqlite3 python3; do
    command -v $tool >/dev/null || { skip dash "$tool is missing"; exit 0; }
done
[ -x "$DOGEAR" ] || { echo "Bail out! no program at $DOGEAR"; exit 1; }
model=$(cd "$(dirname "$0")/../.." && pwd)/assets/model/dogear-memo.gguf
db=$XDG_DATA_HOME/dogear/dogear.db kv=$XDG_DATA_HOME/dogear/dogear-kv.db
n_server=0
tm() { tmux -L "dash$$-$n_server" -f /dev/null "$@"; }
at_exit+=('tm kill-server 2>/dev/null')
start() {
    tm kill-server 2>/dev/null
    n_server=$((n_server + 1))
    rm -f "$work/rc"
    tm new-session -d -x "$1" -y "$2" "cd '$work'; sh -c 'echo \$\$ >pid; exec \"$DOGEAR\" -m \"$model\" --temp 0 -n 40 ${3:-} 2>err'; echo \$? >rc; sleep 5"
    wait_for 60 shows 'F1 help'
}
# The dashboard's own columns: beside the chat on wide screens, all there is on narrow ones.
screen() { tm capture-pane -p 2>/dev/null | sed 's/.*│ //' >"$work/out"; }
shows() { screen && grep -qF -- "$1" "$work/out"; }
has() { wait_for 60 shows "$1"; }
keys() { tm send-keys "$@"; }
say() {
    keys -l "$1"
    keys Enter
}
turns() { [ "$(sqlite3 "$db" 'SELECT count(*) FROM turn')" = "$1" ]; }

# figures: the numbers on the screen as one JSON object in $work/seen
figures() {
    screen
    python3 - "$work/out" >"$work/seen" <<'P'
import json, re, sys
text = re.sub(r"\s+", " ", open(sys.argv[1]).read())
unit = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
figures = { # where each stands; a # is the figure
    "n_tok": "# of [0-9,]+ [0-9.]+% prompt", "n_ctx": "[0-9,]+ of # [0-9.]+% prompt",
    "reused": "reused #", "read": "read #", "chat": "this chat #", "f16": "in f16 #",
    "of_f16": "in f16 [0-9.]+ [KM]?i?B # ", "per_token": "#/token", "used": "budget [█░]* #",
    "budget": "of # by tier", "tier_f16": "■ f16 #", "tier_8": "■ 8/8 #", "fits": "fits #",
    "most": "by turn [▁▂▃▄▅▆▇█ ]*# ", "ram": "RAM #", "weights": "weights #", "scratch": "scratch #",
    "disk": "disk this chat #", "disk_all": "all chats #", "disk_limit": "all chats [0-9.]+ [KM]?i?B of #",
    "kl": "KL #", "top1": "top-1 #", "n": "over # positions", "p99": "99% below #",
    "written": "written #", "computed": "computed #", "page_to": "page [0-9]+, tokens [0-9,]+ to #",
    "n_answer": "Last answer # tokens", "perplexity": "perplexity #", "chosen": 'chosen ".*?" #',
    "likeliest": 'likeliest ".*?" #'}
seen = {}
for name, where in figures.items():
    m = re.search(where.replace("#", r"([0-9][0-9.,]*(?:e-[0-9]+)?)( ?[KMGT]?i?B\b|%)?"), text)
    of = m[2].strip() if m and m[2] else None
    value = float(m[1].strip(",").replace(",", "")) * (0.01 if of == "%" else unit.get(of, 1)) if m else None
    seen[name] = int(value) if value and value == int(value) else value
print(json.dumps(seen))
P
}
# near NAME VALUE: the figure is what is shown of VALUE (three digits)
near() {
    python3 - "$work/seen" "$1" "$2" "${3:-0.006}" <<'P' || { echo "# $1: $(json "$work/seen" "j['$1']") on the screen, $2 counted"; return 1; }
import json, sys
seen, want = json.load(open(sys.argv[1]))[sys.argv[2]], float(sys.argv[3])
sys.exit(0 if seen is not None and abs(seen - want) <= float(sys.argv[4]) * max(abs(want), 1) else 1)
P
}

# Independent counts of this chat: 5 layers, 2 KV heads of 64 channels, blocks of 64 tokens.
layers=5
rows=$((layers * 2 * 2 * 64 * 64 * 2)) sinks=$((layers * 2 * 2 * 64 * 16 * 2)) page=$((64 + 4 * 64 + 4 * 64 + 16 * 64 * 8))
count_chat() {
    n=$(sqlite3 "$db" 'SELECT sum(n_id) FROM message')
    blocks=$(((n + 63) / 64))
    sealed=$(((n - 1) / 64 - 1))
    [ $sealed -gt 0 ] || sealed=0
    chat=$(((blocks - sealed) * rows + sinks + sealed * layers * 2 * page))
}
# This is the only conversation in memory; up to two blocks of rows lie ready for what comes.
in_use() { near used $chat || near used $((chat + rows)) || near used $((chat + 2 * rows)); }
ram_as_kernel() { near ram "$(awk '{print $2 * 4096}' "/proc/$(cat "$work/pid")/statm")" 0.1; }
disk_as_file() {
    near disk_all "$(sqlite3 "$kv" 'SELECT (SELECT * FROM pragma_page_count) * (SELECT * FROM pragma_page_size) - (SELECT * FROM pragma_freelist_count) * (SELECT * FROM pragma_page_size)')" 0.02
}
check() {
    figures
    count_chat
    near n_tok "$n" && near n_ctx 8192
    ok "dash__tokens__are_those_in_the_store_$1"
    near f16 $((blocks * rows)) && near chat $chat && near tier_f16 $(((blocks - sealed) * rows + sinks)) &&
        near tier_8 $((sealed * layers * 2 * page))
    ok "dash__cache__is_what_its_shape_takes_$1"
    near per_token "$(python3 -c "print($chat / $n)")" && near of_f16 "$(python3 -c "print($chat / ($blocks * $rows))")" 0.01
    ok "dash__per_token__is_the_cache_by_its_tokens_$1"
    in_use && near budget $((15 << 20))
    ok "dash__budget__as_given_and_as_used_$1"
    near fits $((8192 - n)) # the context ends before the budget does
    ok "dash__fits__up_to_the_context_$1"
    for _ in 1 2 3 4 5 6 7 8 9 10; do # the screen itself has just grown
        ram_as_kernel >"$work/ram" && break
        sleep 1
        figures
    done
    near weights "$(json "$work/plan" 'j["plan"]["weights_bytes"]')" && ram_as_kernel &&
        near scratch "$(json "$work/plan" 'j["plan"]["scratch_bytes"]')" && shows 'VRAM --'
    ok "dash__memory__as_the_kernel_counts_$1"
    for _ in 1 2 3 4 5 6 7 8 9 10; do # the store may be writing while we look
        disk_as_file && break
        sleep 1
        figures
    done
    disk_as_file && near disk_limit $((700 << 20))
    ok "dash__disk__as_the_file_says_$1"
}

# What the model says of the last answer's tokens when it reads the chat at once, without a cache
# that was compressed: their number, perplexity, the probability of the last one and of the likeliest.
count_answer() {
    sqlite3 "$db" 'SELECT hex(ids) FROM message WHERE ids IS NOT NULL ORDER BY id' >"$work/hex"
    python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))' <"$work/hex" >"$work/ids"
    dogear logits -m "$model" --tokens "$work/ids" --out "$work/logits" || return 1
    python3 - "$work" "$(n_last)" >"$work/answer" <<'P'
import array, json, math, sys
ids, logits, n = array.array("i"), array.array("f"), int(sys.argv[2])
ids.frombytes(open(sys.argv[1] + "/ids", "rb").read())
logits.frombytes(open(sys.argv[1] + "/logits", "rb").read())
width, total = len(logits) // len(ids), 0
for at in range(len(ids) - n, len(ids)):
    row = logits[(at - 1) * width:at * width]
    whole = sum(math.exp(x - max(row)) for x in row)
    chosen = math.exp(row[ids[at]] - max(row)) / whole
    total += math.log(chosen)
print(json.dumps({"perplexity": math.exp(-total / n), "chosen": chosen, "likeliest": 1 / whole}))
P
}
n_last() { sqlite3 "$db" 'SELECT n_id FROM message ORDER BY id DESC LIMIT 1'; }

dogear info "$model" --json --kv-budget 15M && cp "$work/out" "$work/plan"
start 80 24 '--kv-budget 15M --store-budget 700M'
say 'Hello! How are you today?'
wait_for 60 turns 1
keys F2
has 'in f16'
figures
count_chat
near chat "$chat" && near f16 $((blocks * rows)) && [ "$(json "$work/seen" 'j["tier_8"]')" = None ] && shows 'no page yet'
ok dash__short_chat__says_why_it_is_more_than_f16
long='The weather was fine and we walked along the river for a while and talked about the garden.'
say "My dog is called Rex. $long $long $long $long $long $long $long $long"
wait_for 60 turns 2
say 'What is my dog called?'
wait_for 60 turns 3
sleep 1
check 80x24
near n_tok $(($(json "$work/seen" 'j["reused"]') + $(json "$work/seen" 'j["read"]') + $(sqlite3 "$db" 'SELECT n_id FROM message ORDER BY id DESC LIMIT 1'))) 0.01
ok dash__prompt__reused_and_read_and_written_make_all
for size in '120 40' '200 60'; do
    tm resize-window -x "${size% *}" -y "${size#* }"
    has 'verified' && sleep 1
    check "${size/ /x}"
    near most "$(sqlite3 "$db" "SELECT max(n) FROM (SELECT sum(t.value) AS n FROM turn, json_each(turn.figures, '\$.tier_bytes') AS t WHERE t.value > 0 GROUP BY message)")"
    ok "dash__by_turn__highest_is_the_most_that_a_turn_left_${size/ /x}"
    shows 'Precision map' || [ "${size% *}" = 120 ]
    ok "dash__beside_the_chat__${size/ /x}"
done
tm resize-window -x 80 -y 24
has 'Overview'
keys F2
has 'Controls'
keys Tab
has 'Precision map' && shows "L$((layers - 1))" && ! shows "L$layers" && keys End && has "page $((blocks - 1))," && figures && near page_to $((n - 1)) 0
ok dash__map__layers_and_pages_of_this_chat
keys Tab
has 'Sparse attention' && figures && near written "$(n_last)" 0 && near computed 1 && shows '3 turns kept'
ok dash__speed__tokens_written_and_turns_kept
keys Tab
has 'Last answer' && keys End && count_answer
as_model_says() {
    figures
    near n_answer "$(n_last)" 0 && near perplexity "$(json "$work/answer" 'j["perplexity"]')" 0.01 &&
        near chosen "$(json "$work/answer" 'j["chosen"]')" 0.01 && near likeliest "$(json "$work/answer" 'j["likeliest"]')" 0.01
}
wait_for 20 as_model_says
ok dash__answer__probabilities_as_the_logits_say
keys Tab
# Verify: the screen says what the command line finds on the same store.
say '/verify'
wait_for 60 shows 'positions'
figures
keys F2
sleep 0.3
id=$(sqlite3 "$db" 'SELECT id FROM conversation')
keys C-d
wait_for 20 test -f "$work/rc"
[ "$(cat "$work/rc")" = 0 ] && [ ! -s "$work/err" ]
ok dash__end__clean_exit
dogear verify "$id" -m "$model" --json && cp "$work/out" "$work/found" && near kl "$(json "$work/out" 'j["kl_mean"]')" 0.02 &&
    near top1 "$(json "$work/out" 'j["top1"]')" 0.01 && near n "$(json "$work/out" 'j["n"]')" && near p99 "$(json "$work/out" 'j["kl_p99"]')" 0.02
ok dash__verify__as_the_command_line_measures

# Its controls by key, on the chat as it is on disk.
start 80 24 "-r $id"
has 'What is my dog called?'
keys F2
has 'Controls'
as_verified() {
    figures
    near kl "$(json "$work/found" 'j["kl_mean"]')" 0.02 && near top1 "$(json "$work/found" 'j["top1"]')" 0.01 &&
        near n "$(json "$work/found" 'j["n"]')"
}
wait_for 20 as_verified
ok dash__verified__told_again_after_the_restart
keys Tab Tab Tab
has ' choice, KL '
ok dash__verified__of_each_token_after_the_restart
keys Tab
keys Down
keys Left
has '‹ 0.99 ›'
say 'And where did we walk?'
wait_for 60 turns 4 && [ "$(sqlite3 "$db" "SELECT round(json_extract(figures, '\$.coverage'), 4) FROM turn ORDER BY message DESC LIMIT 1")" = 0.99 ]
ok dash__coverage__by_key_for_the_next_answer
keys F2
sleep 0.5
disk_of() { dogear list --json && json "$work/out" 'j[0]["kv_bytes"]'; }
before=$(disk_of)
keys Down Down Down Down Enter
has 'Thin this chat'
keys y
has 'of disk freed'
after=$(disk_of)
[ "$after" -lt "$before" ] || { echo "$before before, $after after" >"$work/out"; false; }
ok dash__thin__less_on_disk
as_on_disk() {
    figures
    near disk "$after"
}
wait_for 20 as_on_disk
ok dash__thin__seen_on_the_screen
keys Tab Tab Tab
has 'read again over' && has 'most at' && has ' on exact rows'
ok dash__answer__what_it_looked_at
keys C-d
wait_for 20 test -f "$work/rc"
[ "$(cat "$work/rc")" = 0 ] && [ ! -s "$work/err" ]
ok dash__end_again__clean_exit

# What was found of finer pages is not told of those that are left on disk.
start 80 24 "-r $id"
has 'where did we walk'
keys F2
has 'state     ○ not measured'
ok dash__verified__not_of_what_was_thinned
keys C-d
wait_for 20 test -f "$work/rc"
