#!/usr/bin/env bash
# The command line against the scripted engine and the store: output, exit codes, JSON fields.
. "$(dirname "$0")/lib.sh"
fake=$work/fake.txt
cat >"$fake" <<'S'
rate 1
echo
on story
say Once upon a time there was a fold.\nIt stayed folded.
on ponder
say <think>\nHm, once.\n\nTwice.\n</think>\n\nThe answer.
on dwell
say <think>Hm, on and on
fail the script says so
on slow
rate 100
say one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
on broken
say half an ans
fail the script says so
S

dogear --help && grep -q '^usage: dogear' "$work/out" && grep -q -- '--kv-budget' "$work/out"
ok cli__help__names_commands_and_options
dogear help ask && grep -q '^usage: dogear ask' "$work/out"
ok cli__help__one_command
dogear list --help && grep -qx 'usage: dogear list \[options\]' "$work/out" && grep -q -- '--json' "$work/out" && ! grep -qE -- '--(temp|ops|man)' "$work/out" &&
    dogear bench --help && grep -q -- '--ops' "$work/out" && dogear --help && grep -q -- '--man.*--completion-bash' "$work/out"
ok cli__help__of_a_command_has_its_options_only
dogear presets && grep -q '^exact ' "$work/out" && grep -q '^snapkv  *lossy' "$work/out" &&
    grep -q '^kivi-4  *simulated' "$work/out" && ! grep -q '^adaptive  *lossy' "$work/out"
ok cli__presets__marks_lossy_ones
[ "$(awk 'NF == 0 { exit } { print substr($0, 16, 1) }' "$work/out" | sort -u)" = " " ]
ok cli__presets__columns_in_line
dogear presets --json && [ "$(json "$work/out" '[p["lossy"] for p in j if p["name"] in ("exact", "h2o")]')" = "[False, True]" ]
ok cli__presets__json
dogear --version && grep -qx 'dogear [0-9.]*' "$work/out"
ok cli__version__one_line
dogear nosuch; [ $rc -eq 2 ] && one_line_error && grep -q nosuch "$work/err"
ok cli__unknown_command__exit_2
dogear --no-save -m /nonexistent/x.gguf ask hi; [ $rc -eq 1 ] && one_line_error && grep -q 'x.gguf' "$work/err" && dogear --db "$work/none" list; grep -q 'no store' "$work/err"
ok cli__command_after_options__is_found
for surplus in 'list extra' 'show 1 extra' 'export all extra' 'desktop extra' '-p x chat extra'; do
    # shellcheck disable=SC2086
    dogear $surplus; [ $rc -eq 2 ] && one_line_error && grep -q '"extra"' "$work/err" || { echo "# $surplus"; break; }
done >"$work/surplus" && [ ! -s "$work/surplus" ] && dogear list --ops; [ $rc -eq 2 ] && one_line_error && grep -q -- '--ops does not go with list' "$work/err"
ok cli__surplus_word_or_option__is_named
dogear ask --nosuch x; [ $rc -eq 2 ] && one_line_error && grep -q -- --nosuch "$work/err"
ok cli__unknown_option__exit_2
for option in '--n-predict 2' --n-predict=2 '--ctx-size 512' '--threads 1' '--temperature 0' '--seed 1' '--n-gpu-layers 0'; do
    # shellcheck disable=SC2086
    dogear ask --fake "$fake" --no-save $option x || { echo "# $option"; break; }
done >"$work/names" && [ ! -s "$work/names" ] && ! dogear ask --temperature 700 x && one_line_error && ! dogear ask --n-predictx 1 x && one_line_error
ok cli__long_names_of_llama_cpp__accepted
dogear ask --top-p 7 x; [ $rc -eq 2 ] && one_line_error && grep -q '"7"' "$work/err"
ok cli__bad_number__names_value
dogear ask --coverage 0.2 x; [ $rc -eq 2 ] && grep -q 'from 0.7 to 1$' "$work/err" && dogear ask --ctx-size -5 x; grep -q 'from 0 to 16777216$' "$work/err"
ok cli__bad_number__names_the_limits
dogear ask --kv-budget 12Q x; [ $rc -eq 2 ] && one_line_error
ok cli__bad_size__exit_2
dogear ask --kv-budget 99999G x; [ $rc -eq 2 ] && one_line_error && grep -q 'KV budget of 9.*: there are .* of memory; 0' "$work/err"
ok cli__kv_budget_above_memory__says_what_there_is
memo=$(cd "$(dirname "$0")/../.." && pwd)/assets/model/dogear-memo.gguf
dogear ask --no-save -m "$memo" --reasoning maybe x; [ $rc -eq 2 ] && one_line_error && grep -q "'maybe' is unknown; use on, off or auto" "$work/err" &&
    dogear ask --no-save -m "$memo" -rea off -n 2 Hello && grep -q 'has no switch for reasoning$' "$work/err"
ok cli__reasoning__bad_value_or_no_switch_is_told
! dogear ask --no-save -m "$memo" --kv exact --kv-budget 1K Hello && [ $rc -eq 1 ] && one_line_error && grep -q 'budget of 1.00 KiB is too small' "$work/err" &&
    least=$(sed 's/.*--kv-budget //' "$work/err") && dogear ask --no-save -m "$memo" --kv exact --kv-budget "$least" -n 2 Hello && grep -q 'to fit the KV budget$' "$work/err" &&
    ! dogear ask --no-save -m "$memo" --kv exact --kv-budget "$((${least%K} - 1))K" Hello && one_line_error &&
    ! dogear ask --no-save -m "$memo" -c 8192 --kv-budget 1M Hello && one_line_error && grep -q 'more than the KV budget of 1.00 MiB; the largest' "$work/err"
ok ask__kv_budget_too_small__names_the_least
dogear ask --no-save -m "$memo" -c 9000 -n 2 Hello && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '9,000 tokens is more than the 8,192 ' "$work/err" &&
    dogear ask --no-save -m "$memo" -c 8192 -n 2 Hello && [ ! -s "$work/err" ]
ok ask__context_beyond_training__is_told
dogear ask --no-save --fake "$fake" " $(printf '\t')"; [ $rc -ne 0 ] && one_line_error && grep -q 'the message is empty' "$work/err"
ok ask__blanks__are_no_message
dogear ask; [ $rc -eq 2 ] && one_line_error
ok ask__no_prompt__exit_2
dogear -hf some/model; [ $rc -eq 2 ] && one_line_error && grep -q 'unknown option -hf' "$work/err" &&
    ! dogear --bogus ask hi && one_line_error && grep -q 'unknown option --bogus.*ask --help' "$work/err"
ok cli__unknown_option_before_a_word__is_what_is_told
dogear list && grep -q 'no conversation is saved' "$work/err" && dogear search x && grep -q 'nothing found' "$work/err" && dogear export all && dogear doctor && dogear list --json && [ "$(cat "$work/out")" = "[]" ] &&
    { dogear show 1; [ $rc -eq 1 ]; } && [ ! -e "$work/data" ]
ok store__nothing_saved_yet__reading_makes_no_file
dogear list --db "$work/no/such.db"; [ $rc -eq 1 ] && one_line_error && grep -q 'no store at .*no/such.db' "$work/err" && [ ! -e "$work/no" ]
ok store__missing_file__one_line
dogear ask -m /nonexistent/x.gguf hi; [ $rc -eq 1 ] && one_line_error
ok ask__missing_model__one_line
mkdir -p "$XDG_CONFIG_HOME/dogear" && echo 'colour = red' >"$XDG_CONFIG_HOME/dogear/config"
dogear list; [ $rc -eq 2 ] && one_line_error && grep -q 'config:1' "$work/err"
ok config__unknown_key__names_file_and_line
printf '# mine\ntemp = 0.5\n' >"$XDG_CONFIG_HOME/dogear/config"
dogear list
ok config__known_key__accepted
printf 'model = "~/no such.gguf"\nbogus\n' >"$XDG_CONFIG_HOME/dogear/config"
dogear --version && [ ! -s "$work/err" ] && dogear list --help && dogear --help && ! dogear list && grep -q 'config:2' "$work/err"
ok config__bad_line__help_and_version_do_not_need_it
sed -i 2d "$XDG_CONFIG_HOME/dogear/config"
! dogear ask hi && one_line_error && grep -qF "$HOME/no such.gguf" "$work/err" && ! grep -q '"' "$work/err"
ok config__path_in_quotes__home_is_expanded
rm "$XDG_CONFIG_HOME/dogear/config" && mkdir "$XDG_CONFIG_HOME/dogear/config"
! dogear list && one_line_error && grep -q 'config: Is a directory' "$work/err"
ok config__folder__is_told
rm -r "$XDG_CONFIG_HOME/dogear"

dogear ask --fake "$fake" hello there && [ "$(cat "$work/out")" = "hello there" ] && [ ! -s "$work/err" ]
ok ask__answer__alone_on_stdout
dogear_in "from a pipe" ask --fake "$fake" && [ "$(cat "$work/out")" = "from a pipe" ]
ok ask__stdin__is_the_prompt
dogear ask --fake "$fake" --raw --no-save tell a story && [ "$(head -n 1 "$work/out")" = 'tell a storyOnce upon a time there was a fold.' ]
ok ask__raw__text_comes_first
printf 'caf\351\n' >"$work/latin1.txt"
! dogear ask --fake "$fake" -f "$work/latin1.txt" && [ $rc -eq 2 ] && one_line_error && grep -q 'latin1.txt: byte 4 (0xE9) .* iconv' "$work/err" &&
    ! dogear_in $'12\377' ask --fake "$fake" hi && [ $rc -eq 2 ] && one_line_error && grep -q 'standard input: byte 3 (0xFF)' "$work/err" &&
    ! dogear ask --fake "$fake" $'\377' && one_line_error && grep -q 'the prompt: byte 1 ' "$work/err"
ok ask__no_utf8__names_the_byte
dogear_in "data" ask --fake "$fake" -p "look:" && [ "$(cat "$work/out")" = "look:

data" ]
ok ask__stdin__is_added_to_the_prompt
dogear ask --fake "$fake" --json tell a story &&
    [ "$(json "$work/out" 'j["answer"]')" = "Once upon a time there was a fold.
It stayed folded." ] && [ "$(json "$work/out" 'j["stop"]')" = eos ] &&
    [ "$(json "$work/out" '[k for k in "answer conversation model kv tokens_reused tokens_read tokens_generated ttft_ms prefill_tps decode_tps kv_bytes f16_bytes density retained_mass stop".split() if k not in j]')" = "[]" ]
ok ask__json__has_every_field
[ "$(json "$work/out" 'j["density"]')" = None ]
ok ask__json__unknown_is_null
story=$(json "$work/out" 'j["conversation"]')
dogear ask --fake "$fake" broken; [ $rc -eq 1 ] && grep -q 'the script says so' "$work/err"
ok ask__engine_failure__exit_1

# thoughts: never on stdout, on a terminal only, apart in JSON, a quotation in what is kept
dogear ask --fake "$fake" --db "$work/thought.db" ponder this && [ "$(cat "$work/out")" = "The answer." ] && [ ! -s "$work/err" ]
ok ask__thoughts__not_on_stdout
dogear ask --fake "$fake" --no-save ponder this --json &&
    [ "$(json "$work/out" 'j["answer"], j["thinking"]')" = "('The answer.', 'Hm, once.\\n\\nTwice.')" ] &&
    dogear ask --fake "$fake" --no-save hello --json && [ "$(json "$work/out" 'j["answer"], j["thinking"]')" = "('hello', None)" ]
ok ask__json__thoughts_apart
dogear ask --fake "$fake" --no-save dwell; [ $rc -eq 1 ] && [ -z "$(tr -d '\n' <"$work/out")" ] && grep -q 'script says so' "$work/err" && ! grep -q Hm "$work/err"
ok ask__cut_off_while_thinking__no_answer
dogear ask --fake "$fake" --no-save --raw ponder this && grep -q '^ponder this<think>' "$work/out"
ok ask__raw__thoughts_are_text
script -qec "'$DOGEAR' ask --fake '$fake' --no-save ponder this >'$work/answer'" /dev/null </dev/null >"$work/out" 2>&1
grep -q 'thinking: Hm, once' "$work/out" && ! grep -q 'think>' "$work/out" && [ "$(cat "$work/answer")" = "The answer." ]
ok ask__thoughts__on_a_terminal
dogear show 1 --db "$work/thought.db" && grep -qx Thoughts "$work/out" && grep -qx '> Twice.' "$work/out" && ! grep -q 'think>' "$work/out" &&
    dogear export 1 --db "$work/thought.db" && grep -qx Thoughts "$work/out" && grep -qx '> Twice.' "$work/out" && grep -qx 'The answer.' "$work/out" &&
    dogear show 1 --json --db "$work/thought.db" && [ "$(json "$work/out" 'j["path"][1]["text"][:7]')" = '<think>' ]
ok show__thoughts__are_a_quotation
dogear search once --db "$work/thought.db" --json && [ "$(json "$work/out" 'j[0]["snippet"][:9]')" = 'Hm, once.' ]
ok search__thoughts__without_their_mark

dogear list --json && [ "$(json "$work/out" 'len(j)')" = 5 ] &&
    [ "$(json "$work/out" '[k for k in "id title updated messages tokens kv_bytes tiers state_bytes pinned".split() if k not in j[0]]')" = "[]" ]
ok list__json__has_every_field
dogear list && grep -q 'tell a story' "$work/out"
ok list__table__shows_titles
dogear show "$story" && grep -q 'It stayed folded' "$work/out" && grep -q '^\[user\]' "$work/out"
ok show__text__has_both_sides
dogear show "$story" --json && [ "$(json "$work/out" 'j["path"][1]["role"]')" = assistant ]
ok show__json__path
dogear verify --fake "$fake" "$story" --json &&
    [ "$(json "$work/out" '[k for k in "conversation kv n_tok n kl_mean kl_p99 top1 first_divergence nll nll_exact".split() if k not in j]')" = "[]" ] &&
    [ "$(json "$work/out" 'j["n"] == j["n_tok"] > 0 and j["kl_mean"] is None')" = True ]
ok verify__json__has_every_field
dogear verify --fake "$fake" 99999; [ $rc -eq 1 ] && one_line_error
ok verify__unknown_id__one_line
# a message that would clear the screen: ESC [ and its one-character form, U+009B
raw=$(printf 'a\033[2Jb\302\2332Jc')
tame() { grep -q 'a\[2Jb2Jc' "$work/out" && ! LC_ALL=C grep -q $'\302\233\|\033\[2J' "$work/out"; }
dogear ask --fake "$fake" "$raw" && grep -qF "$raw" "$work/out" && dogear list && tame && dogear search 2Jc && tame &&
    dogear ask --fake "$fake" "$raw" --json && [ "$(json "$work/out" 'j["answer"] == "a\x1b[2Jb\x9b2Jc"')" = True ] &&
    last=$(json "$work/out" 'j["conversation"]') && ! LC_ALL=C grep -q $'\302\233' "$work/out" && dogear show "$last" && tame &&
    raw=$raw script -qec "'$DOGEAR' ask --no-save --fake '$fake' \"\$raw\"" /dev/null >"$work/out" </dev/null && tame &&
    dogear rm -y "$last" "$((last - 1))"
ok text__control_characters__stay_from_the_terminal
dogear show 99999; [ $rc -eq 1 ] && one_line_error
ok show__unknown_id__one_line
dogear show abc; [ $rc -eq 2 ] && one_line_error
ok show__no_number__exit_2
dogear search folded --json && [ "$(json "$work/out" 'j[0]["id"]')" = "$story" ]
ok search__word__finds_answer
for query in '"' "'" 'a AND' '(' '*' 'x NEAR y' '--' '%' 'title:'; do
    timeout 20 "$DOGEAR" search -- "$query" >"$work/out" 2>"$work/err" </dev/null || { grep -qi 'syntax\|sql' "$work/err" && false; } || break
done
ok search__any_punctuation__is_safe
dogear rename "$story" A new 'name' && dogear list && grep -q 'A new name' "$work/out"
ok rename__title__shown
dogear fork "$story" && forked=$(cat "$work/out") && dogear show "$forked" && grep -q folded "$work/out"
ok fork__copy__same_text
dogear ask --fake "$fake" -r "$forked" and more --json &&
    [ "$(json "$work/out" 'j["tokens_reused"] > 0')" = True ] && dogear show "$story" && ! grep -q 'and more' "$work/out"
ok fork__going_on__leaves_the_original_alone
dogear rm "$story"; [ $rc -eq 2 ] && one_line_error && grep -q -- -y "$work/err" && dogear show "$story"
ok rm__no_terminal__asks_for_y
dogear rm -y "$story" && { dogear show "$story"; [ $rc -eq 1 ]; } && dogear show "$forked" && grep -q folded "$work/out"
ok rm__original__fork_keeps_its_text
dogear pin "$forked" && dogear list --json && [ "$(json "$work/out" '[r["pinned"] for r in j if r["id"]=='"$forked"']')" = "[True]" ]
ok pin__shown
dogear ask --fake "$fake" -r again --json && [ "$(json "$work/out" 'j["conversation"]')" = "$forked" ]
ok ask__resume__takes_the_latest
dogear export "$forked" && grep -q 'It stayed folded' "$work/out"
ok export__markdown__on_stdout
dogear export all --format json --out "$work/all.json" && dogear import "$work/all.json" --json --db "$work/second.db" &&
    [ "$(json "$work/out" 'j["conversations"]')" = 5 ] && dogear search folded --db "$work/second.db" && grep -q folded "$work/out"
ok import__json__search_finds_it
dogear import "$work/all.json" --db "$work/second.db" && grep -qx '5 conversations, .* messages imported as 6 to 10' "$work/out"
ok import__json__tells_the_new_ids
dogear export "$forked" --out "$work/one.md" && ! dogear import "$work/one.md" && [ $rc -eq 1 ] && one_line_error && grep -q -- '--format json' "$work/err" &&
    ! dogear import /nope && [ $rc -eq 1 ] && one_line_error && grep -qx 'dogear: cannot open /nope: No such file or directory' "$work/err"
ok import__what_it_cannot_read__one_line
dogear export "$forked" --format dogear --out "$work/one.dogear" && dogear import "$work/one.dogear" --db "$work/third.db" &&
    grep -qx '1 conversation, .* imported as 1' "$work/out" && dogear list --json --db "$work/third.db" && [ "$(json "$work/out" 'len(j)')" = 1 ]
ok import__whole_file__one_conversation
dogear export "$forked" --format dogear --out "$work/one.dogear"; [ $rc -eq 1 ] && one_line_error
ok export__existing_file__is_not_overwritten
dogear export "$forked" --out "$work/by.json" && json "$work/by.json" 'len(j)' >"$work/out" && dogear export "$forked" --out "$work/by.Dogear" &&
    dogear import "$work/by.Dogear" --db "$work/third.db" && dogear export "$forked" --format md --out "$work/md.json" && head -n 1 "$work/md.json" | grep -q '^# ' &&
    [ "$(stat -c %a "$work"/one.md "$work"/by.json "$work"/by.Dogear "$work"/md.json | sort -u)" = 600 ] &&
    ! dogear export all --out "$work/all.dogear" && [ $rc -eq 2 ] && one_line_error && [ ! -e "$work/all.dogear" ]
ok export__format__by_the_ending_and_private
dogear thin "$forked" none && dogear show "$forked" && grep -q folded "$work/out"
ok thin__none__keeps_the_text
dogear list --store-budget 300M && dogear doctor --json && [ "$(json "$work/out" 'j["kv_budget"], j["kv_budget_automatic"]')" = "(314572800, False)" ]
ok store_budget__size__is_kept_and_shown
dogear doctor --store-budget 0 && grep -q 'cache budget .* (automatic' "$work/out"
ok store_budget__0__is_automatic_again
dogear list --store-budget lots; [ $rc -eq 2 ] && one_line_error && grep -q lots "$work/err"
ok store_budget__no_size__exit_2
dogear thin "$forked" 7/7; [ $rc -eq 2 ] && one_line_error
ok thin__unknown_precision__exit_2
before=$(find "$work/data" -type f -exec md5sum {} + | sort | md5sum)
dogear ask --fake "$fake" --no-save secret && [ "$(cat "$work/out")" = secret ] &&
    [ "$(find "$work/data" -type f -exec md5sum {} + | sort | md5sum)" = "$before" ]
ok ask__no_save__leaves_nothing
[ "$(stat -c %a "$XDG_DATA_HOME/dogear")" = 700 ] && [ -z "$(find "$XDG_DATA_HOME/dogear" -type f ! -perm 600)" ]
ok store__permissions__private
dogear doctor && grep -q 'text ok' "$work/out" && ! grep -qE ' [MG]B|/\.\./' "$work/out" && grep -q 'KiB used' "$work/out"
ok doctor__healthy__exit_0
dogear doctor --json && [ "$(json "$work/out" 'j["ok"]')" = True ]
ok doctor__json
# a cached piece that is not what its checksum says
sqlite3 "$XDG_DATA_HOME/dogear/dogear-kv.db" 'INSERT INTO chunk_0 VALUES (1, x'\''00'\'');
    INSERT INTO block (id, fingerprint, hash, n_tok, state) VALUES (1, 1, 1, 64, 0);
    INSERT INTO ref SELECT min(id), 1 FROM chat; INSERT INTO piece VALUES (1, 0, 0, 0, 1, 1, 1, 1, 0, zeroblob(16))'
dogear doctor; [ $rc -eq 1 ] && grep -q 'cache DAMAGED' "$work/out" && dogear doctor --repair &&
    grep -q 'cache ok' "$work/out" && grep -q 'repaired: KV: 1 damaged piece' "$work/out" && dogear doctor &&
    ! grep -q 'repaired' "$work/out"
ok doctor__repair__says_what_was_damaged

# a page of the text itself: what cannot be read is no number, and the way out is told
dogear ask --fake "$fake" --db "$work/hurt.db" tell a story && cp "$work/hurt.db" "$work/whole.db" &&
    page=$(sqlite3 "$work/hurt.db" "SELECT rootpage - 1 FROM sqlite_master WHERE name IN ('conversation', 'conversation_updated', 'conversation_tree')") &&
    for p in $page; do dd if=/dev/urandom of="$work/hurt.db" bs=4096 seek="$p" count=1 conv=notrunc 2>/dev/null; done
dogear doctor --db "$work/hurt.db"; [ $rc -eq 1 ] && grep -q 'text DAMAGED' "$work/out" && grep -q '^ *-- conversations, 2 messages' "$work/out" &&
    grep -q "cp '$work/hurt.db' " "$work/out" && grep -q 'doctor --repair --db .*hurt.db' "$work/out" && grep -q '.dump | sed' "$work/out" &&
    { dogear doctor --repair --db "$work/hurt.db"; [ $rc -eq 1 ]; } && ! grep -q 'then try' "$work/out" && grep -q '.dump | sed' "$work/out" &&
    { dogear doctor --json --db "$work/hurt.db"; [ "$(json "$work/out" 'j["ok"], j["conversations"], j["messages"]')" = '(False, None, 2)' ]; }
ok doctor__damaged_text__says_what_to_do
# a page in the middle of the messages: the commands that doctor prints save all the others
for i in {1..20}; do
    "$DOGEAR" ask --fake "$fake" --db "$work/part.db" "talk $i $(printf 'about herons %.0s' {1..60})" </dev/null >/dev/null 2>&1
done
page=$(grep -abo 'talk 9 about herons' "$work/part.db" | while IFS=: read -r at _; do echo $((at / 4096)); done | sort -n | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
dd if=/dev/urandom of="$work/part.db" bs=4096 seek="$page" count=1 conv=notrunc 2>/dev/null
! dogear doctor --repair --db "$work/part.db" && grep -q 'text DAMAGED' "$work/out" &&
    { sed -n "/^ *cp '/p; /^ *(sqlite3/,/^ *dogear doctor/p" "$work/out" | sed "s#^ *dogear #'$DOGEAR' #" >"$work/rescue.sh"; } &&
    (cd "$work" && sh -e rescue.sh) >"$work/out" 2>"$work/err" && grep -q 'text ok' "$work/out" &&
    dogear search herons --db "$work/new.db" --json && [ "$(json "$work/out" 'len(j) >= 17')" = True ] &&
    dogear show 20 --db "$work/new.db" && [ "$(grep -c 'talk 20 about' "$work/out")" = 3 ]
ok doctor__damaged_text__the_way_out_works

echo 'this is no database' >"$work/foreign.db"
chmod 644 "$work/foreign.db"
dogear list --db "$work/foreign.db"; [ $rc -eq 1 ] && one_line_error && [ "$(cat "$work/foreign.db")" = 'this is no database' ] &&
    [ "$(stat -c %a "$work/foreign.db")" = 644 ]
ok store__foreign_file__one_line_and_left_alone
sqlite3 "$work/other.db" 'create table t(x); insert into t values(1)' 2>/dev/null
dogear list --db "$work/other.db"; [ $rc -eq 1 ] && one_line_error
ok store__foreign_database__one_line

# a disk of 2 MiB that is full: reading goes on, writing says why not, and goes on when there is room
cat >"$work/full.sh" <<'S'
disk=$1
mount -t tmpfs -o size=2m none "$disk" || exit 77
# what has no room leaves no conversation without a message
head -c 3M /dev/zero | tr '\0' x | "$DOGEAR" ask --fake "$3" --db "$disk/e.db" 2>&1 | grep -q 'disk is full' || exit 8
[ "$("$DOGEAR" list --json --db "$disk/e.db")" = "[]" ] && rm "$disk"/e* || exit 9
"$DOGEAR" ask --fake "$2" --db "$disk/d.db" once upon a time || exit 1
head -c 4M /dev/zero >"$disk/fill" 2>/dev/null
"$DOGEAR" list --db "$disk/d.db" | grep -q 'once upon' || exit 2
"$DOGEAR" show 1 --db "$disk/d.db" | grep -q 'once upon' || exit 3
"$DOGEAR" ask --fake "$2" --db "$disk/d.db" -r more >"$1.err" 2>&1
[ "$(grep -c 'disk is full' "$1.err")" -eq 1 ] || exit 4
rm "$disk/fill"
"$DOGEAR" ask --fake "$2" --db "$disk/d.db" -r more && "$DOGEAR" doctor --db "$disk/d.db" || exit 5
mount -o remount,ro "$disk" || exit 77
"$DOGEAR" list --db "$disk/d.db" | grep -q ' -- .*once upon' && "$DOGEAR" doctor --db "$disk/d.db" || exit 6
"$DOGEAR" ask --fake "$2" --db "$disk/d.db" -r more 2>&1 | grep -q 'read-only.*--no-save' || exit 7
# where nothing can be made it says what, why and what to try
for db in new.db sub/new.db; do
    "$DOGEAR" ask --fake "$2" --db "$disk/$db" more >"$1.err" 2>&1 && exit 10
    [ "$(wc -l <"$1.err")" -eq 1 ] && grep -q "make .*$disk.*: Read-only file system; .*--db FILE.*--no-save" "$1.err" || exit 11
done
S
mkdir "$work/disk"
printf 'ctx 9999999\nsay fine\n' >"$work/wide.txt"
DOGEAR=$DOGEAR unshare -rm bash "$work/full.sh" "$work/disk" "$fake" "$work/wide.txt" >"$work/out" 2>"$work/err"
rc=$?
if [ $rc -eq 77 ] || ! unshare -rm true 2>/dev/null; then
    skip store__full_disk_and_read_only__can_be_read "no mount of its own"
else
    [ $rc -eq 0 ]
    ok store__full_disk_and_read_only__can_be_read
fi

# a question that cannot fit is not stored: the conversation could not go on behind it
printf 'ctx 100\nsay fine\n' >"$work/narrow.txt"
dogear ask --fake "$work/narrow.txt" --db "$work/narrow.db" hello &&
    ! dogear_in "$(printf 'word %.0s' {1..40})" ask --fake "$work/narrow.txt" --db "$work/narrow.db" -r && [ $rc -eq 2 ] &&
    one_line_error && grep -q 'context holds 100' "$work/err" &&
    dogear show 1 --json --db "$work/narrow.db" && [ "$(json "$work/out" 'len(j["path"])')" = 2 ]
ok ask__question_that_cannot_fit__is_refused_before_it_is_stored
# what only the model's chat format makes too long is taken back, alone or behind others
dogear ask -m "$memo" --db "$work/narrow2.db" hello && long=$(printf 'dog %.0s' {1..125}) &&
    ! dogear ask -m "$memo" -c 128 --db "$work/narrow2.db" "$long" && [ $rc -eq 2 ] && one_line_error && grep -q 'context holds 128' "$work/err" &&
    ! dogear ask -m "$memo" -c 128 --db "$work/narrow2.db" -r 1 "$(printf 'dog %.0s' {1..100})" && [ $rc -eq 2 ] && one_line_error &&
    dogear list --json --db "$work/narrow2.db" && [ "$(json "$work/out" '[r["messages"] for r in j]')" = "[2]" ]
ok ask__refused_by_the_engine__nothing_is_left_of_it

# an answer for which there is no room lies beside the store in the end
{ printf 'rate 0\nsay start'; printf ' more%.0s' {1..60000}; } >"$work/large.txt"
(trap '' XFSZ && ulimit -f 300 && dogear ask --fake "$work/large.txt" --db "$work/small.db" hello
    [ $rc -eq 1 ] && grep -q 'could not be stored.*its text is in' "$work/err" && cmp "$work/out" "$work"/small.db-unsaved-*.txt)
ok ask__no_room_for_the_answer__its_text_is_kept_in_a_file

# a kill in the middle of an answer: the question whole, the answer up to what was stored of it,
# within about a second
: >"$work/stream"
"$DOGEAR" ask --fake "$fake" slow please >"$work/stream" 2>/dev/null </dev/null &
pid=$!
wait_for 20 stored 'one two'
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
dogear list --json && id=$(json "$work/out" 'j[0]["id"]') && dogear show "$id" --json &&
    [ "$(json "$work/out" 'j["path"][0]["text"]')" = "slow please" ] &&
    [ "$(json "$work/out" 'j["path"][1]["text"].startswith("one two")')" = True ]
ok kill__while_streaming__nothing_typed_is_lost
dogear doctor
ok kill__store__sound_afterwards
{ printf 'on hello\nrate 200\nsay one two'; printf ' more%.0s' {1..300}; } >"$work/long.txt" # a minute
"$DOGEAR" ask --fake "$work/long.txt" hello again >"$work/stream" 2>/dev/null </dev/null &
pid=$!
wait_for 20 stored 'one two more' # not the chat before, which says one two as well
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
dogear show "$(($id + 1))" --json && [ "$(json "$work/out" 'j["path"][1]["complete"]')" = False ] &&
    dogear ask --fake "$fake" -r && dogear show "$(($id + 1))" --json &&
    [ "$(json "$work/out" 'j["path"][0]["text"], j["path"][1]["complete"]')" = "('hello again', True)" ] &&
    ! dogear ask --fake "$fake" -r && [ $rc -eq 2 ] && one_line_error
ok ask__resume_without_prompt__answers_what_was_left_open
: >"$work/stream"
"$DOGEAR" ask --fake "$fake" slow again >"$work/stream" 2>"$work/err" </dev/null &
pid=$!
wait_for 20 grep -q three "$work/stream"
kill -INT $pid
wait $pid
[ $? -eq 130 ] && dogear show "$(($id + 2))" --json && [ "$(json "$work/out" 'j["path"][1]["stop"]')" = cancel ]
ok interrupt__ask__stores_what_was_said
{ "$DOGEAR" ask --fake "$work/long.txt" hello to nobody 2>"$work/err"; echo $? >"$work/status"; } </dev/null | head -c 8 >"$work/stream"
[ "$(cat "$work/stream")" = "one two " ] && [ "$(cat "$work/status")" = 1 ] && [ ! -s "$work/err" ] && dogear show "$(($id + 3))" --json &&
    [ "$(json "$work/out" 'j["path"][1]["stop"], j["path"][1]["text"].startswith("one two more")')" = "('cancel', True)" ]
ok ask__reader_gone__stops_and_keeps_what_was_said
dogear ask --fake "$fake" -sys 'Be kind.' first of all --json && told=$(json "$work/out" 'j["conversation"]') &&
    dogear ask --fake "$fake" -r "$told" -sys 'Be kind.' and then --json && [ "$(json "$work/out" 'j["tokens_reused"] > 0')" = True ] &&
    dogear ask --fake "$fake" -r "$told" -sys 'Be brief.' at last --json && [ "$(json "$work/out" 'j["conversation"]')" = "$told" ] &&
    dogear show "$told" && grep -q 'Be brief' "$work/out" && grep -q 'first of all' "$work/out" && ! grep -q 'Be kind' "$work/out"
ok resume__system_prompt__the_same_or_a_branch
mkdir "$XDG_CONFIG_HOME/dogear" && echo 'system-prompt = Be terse.' >"$XDG_CONFIG_HOME/dogear/config"
dogear ask --fake "$fake" -r "$told" once more --json && dogear show "$told" && grep -q 'Be brief' "$work/out" && ! grep -q 'Be terse' "$work/out" &&
    dogear ask --fake "$fake" another --json && dogear show "$(json "$work/out" 'j["conversation"]')" && grep -q 'Be terse' "$work/out"
ok config__system_prompt__is_for_new_conversations
rm -r "$XDG_CONFIG_HOME/dogear"

dogear --completion-bash && grep -q kv-budget "$work/out" && dogear --completion-zsh && grep -q kv-budget "$work/out" &&
    dogear --completion-fish && grep -q kv-budget "$work/out"
ok completion__every_shell
"$DOGEAR" --completion-bash | bash -n
ok completion__bash__parses
offers() { # WORDS TYPED: the words that bash offers behind them
    # shellcheck disable=SC2016
    bash -c 'compopt() { :; }; eval "$("$1" --completion-bash)"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dogear; echo "${COMPREPLY[*]}"' _ "$DOGEAR" "$@"
}
[ "$(offers dogear ask --kv ad)" = adaptive ] && [ "$(offers dogear ask --kv 8/)" = '8/8 8/4' ] && [ "$(offers dogear ask --backend '')" = 'auto cpu cuda' ] &&
    [ "$(offers dogear chat --theme l)" = light ] && [ "$(offers dogear export 1 --format '')" = 'md json dogear' ] && [ "$(offers dogear ex)" = export ] &&
    dogear --completion-zsh && grep -q -- '--kv) compadd -- exact 8/8' "$work/out" && dogear --completion-fish && grep -q -- "-l backend -x -a 'auto cpu cuda'" "$work/out"
ok completion__values__of_options_with_few_words
! dogear ask --no-save -m "$memo" --kv adaptve hi && [ $rc -eq 2 ] && one_line_error && grep -q 'you may mean adaptive;' "$work/err" &&
    ! dogear ask --no-save -m "$memo" --kv zip hi && one_line_error && grep -q 'dogear presets' "$work/err" && [ "$(wc -c <"$work/err")" -lt 160 ]
ok kv__unknown_name__the_likely_one
dogear --man && grep -q '^\.TH DOGEAR' "$work/out" && grep -q 'kv.-budget' "$work/out"
ok man__printed__from_the_tables
for command in list 'list --json' 'show 1' 'export 1' models presets --man --help --version --completion-fish "ask --fake $fake --no-save hi" \
    "ask --fake $fake --no-save --json hi" "ask --fake $fake --no-save slow one"; do
    # shellcheck disable=SC2086
    timeout 20 "$DOGEAR" $command >/dev/full 2>"$work/err" </dev/null
    [ $? -eq 1 ] && [ "$(cat "$work/err")" = 'dogear: standard output: No space left on device' ] || { echo "# $command"; break; }
done >"$work/out" && [ ! -s "$work/out" ]
ok stdout__full_disk__one_line_and_exit_1
"$DOGEAR" list </dev/null | head -c 1 >/dev/null
ok list__closed_pipe__no_noise
