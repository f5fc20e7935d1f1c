#!/usr/bin/env bash
# The command line on real model files.
. "$(dirname "$0")/lib.sh"
story=${DOGEAR_DATA:-/nonexistent}/_derived/stories260K-ctx512-F32.rebuilt.gguf
if [ ! -f "$story" ]; then
    skip models "no test material"
    exit
fi
dogear_in "Once upon a time" ask -m "$story" --temp 0 -n 60 && grep -q '^Once upon a time, there was a little girl named Lily' "$work/out"
ok ask__story_model__tells_the_story
first=$(cat "$work/out")
dogear_in "Once upon a time" ask -m "$story" --temp 0 -n 60 && [ "$(cat "$work/out")" = "$first" ]
ok ask__greedy__is_reproducible
dogear_in "Once upon a time" ask -m "$story" -s 7 -n 40 && a=$(cat "$work/out") && dogear_in "Once upon a time" ask -m "$story" -s 7 -n 40 && [ "$(cat "$work/out")" = "$a" ]
ok ask__same_seed__same_text
for isa in ref avx2 avx512 amx; do
    KERNELS=$isa dogear_in "Once upon a time" ask -m "$story" --temp 0 -n 60 || { grep -qi 'lacks\|unknown\|kernels' "$work/err" && continue; break; }
    [ "$(cat "$work/out")" = "$first" ] || break
done
ok ask__every_instruction_set__same_story
dogear info "$story" --json && json "$work/out" 'j' >/dev/null
ok info__json__parses
dogear info "$story" && head -8 "$work/out" >"$work/head" && grep -qx 'quantisation    F32' "$work/head" && grep -q '^size .* [KM]iB$' "$work/head" &&
    grep -qx 'chat format     none: text is continued' "$work/head" && grep -qx 'trained context 512' "$work/head" && grep -qx '  parameters  *260,032' "$work/out" &&
    grep -q '^fits  *yes, up to 512 tokens of context$' "$work/head" && ! grep -q 'attn_q' "$work/out" &&
    dogear info "$story" --tensors && grep -q 'attn_q.* F32 \[.*\] [0-9.]* [KM]iB' "$work/out"
ok info__text__begins_with_a_summary
dogear info "$story" --kv-budget 10K && grep -q '^fits  *no: a KV budget of 10.0 KiB is too small: .*--kv-budget [0-9]*K$' "$work/out"
ok info__does_not_fit__says_what_it_needs
dogear info "$DOGEAR_MEMO" --json && [ "$(json "$work/out" 'j["chat_format"]')" = chatml ] && dogear info "$story" --json && [ "$(json "$work/out" 'j["chat_format"]')" = None ]
ok info__json__chat_format
dogear tokenize -m "$story" -p "hello world" --ids && ids=$(tr '\n' ' ' <"$work/out") && dogear detokenize -m "$story" $ids && [ "$(sed 's/^ //' "$work/out")" = "hello world" ]
ok tokenize__round_trip
dogear tokenize -m "$story" -p 日 && [ "$(awk '{printf "%s", $2}' "$work/out" | tr -d '" ')" = '<0xE6><0x97><0xA5>' ]
ok tokenize__bytes_of_a_character
python3 - "$work/ids.bin" <<'P'
import struct, sys
open(sys.argv[1], "wb").write(struct.pack("<5i", 1, 403, 407, 261, 378))
P
dogear logits -m "$story" --tokens "$work/ids.bin" --out "$work/logits.bin" && [ "$(stat -c %s "$work/logits.bin")" = $((5 * 512 * 4)) ]
ok logits__size__n_tok_by_n_vocab
printf 'Once upon a time there was a little girl. She liked to play with her dog in the park.' >"$work/text"
dogear perplexity -m "$story" "$work/text" --json && [ "$(json "$work/out" '0.5 < j["nll"] < 4')" = True ]
ok perplexity__plain_text__plausible
dogear bench -m "$story" -p 32 -n 8 -r 1 --json && [ "$(json "$work/out" '[r["test"] for r in j]')" = "['pp32', 'tg8']" ] && [ "$(json "$work/out" '[k for k in "test depth kv tps_median tps_min tps_max gbps limit_fraction".split() if k not in j[0]]')" = "[]" ]
ok bench__json__fields

llama=$DOGEAR_DATA/reference/llama-F16.gguf
for i in $(seq 100); do echo "line $i of a text that is long enough to be sealed"; done >"$work/long"
dogear eval -m "$llama" --text "$work/long" -c 600 --kv exact,8/4,4/4 --json &&
    [ "$(json "$work/out" '[r["preset"] for r in j]')" = "['exact', '8/4', '4/4']" ] &&
    [ "$(json "$work/out" 'j[0]["kl_mean"] == 0 < j[1]["kl_mean"] < j[2]["kl_mean"]')" = True ] &&
    [ "$(json "$work/out" 'j[0]["bytes_per_token"] > j[1]["bytes_per_token"] > j[2]["bytes_per_token"] > 0')" = True ]
ok eval__text__prices_and_bytes
[ "$(find "$work/cache/dogear/floors" -type f | wc -l)" = 1 ]
ok eval__floor__is_remembered
rm -r "$work/cache" && dogear eval --no-save -m "$llama" --text "$work/long" -c 600 --kv 4/4 &&
    [ "$(find "$work/cache" -type f)" = "$(find "$work/cache/dogear/floors" -type f)" ] && [ -d "$work/cache" ]
ok eval__no_save__remembers_the_floor_alone
# A third of f16, where 4/4 pages and the window take more; the exact rows are not bound by it.
dogear eval -m "$llama" --text "$work/long" -c 4096 --kv exact,adaptive --kv-budget 1M --json &&
    [ "$(json "$work/out" 'j[0]["kl_mean"] == 0 < j[1]["kl_mean"] and j[0]["bytes_per_token"] > 1000')" = True ] &&
    [ "$(json "$work/out" 'j[1]["bytes_per_token"] * j[1]["n_tok"] <= 2**20')" = True ]
ok eval__budget__is_adaptives_alone
dogear eval -m "$llama" --attention --text "$work/long" -c 1024 --kv exact,a-shape,snapkv-turn --json &&
    [ "$(json "$work/out" '[r["preset"] for r in j]')" = "['exact', 'a-shape', 'snapkv-turn']" ] &&
    [ "$(json "$work/out" 'j[0]["prefill_density"] is None and j[0]["decode_density"] is None')" = True ] &&
    [ "$(json "$work/out" '0 < j[1]["prefill_density"] < 1 and 0 < j[1]["prefill_mass"] <= 1 and j[1]["prefill_error"] > 0')" = True ] &&
    [ "$(json "$work/out" '0 < j[2]["decode_density"] < 1 and j[2]["prefill_density"] is None')" = True ]
ok eval__attention__each_preset_beside_dense
dogear eval -m "$llama" --attention; [ $rc -eq 2 ] && one_line_error
ok eval__attention_without_text__one_line
dogear ask -m "$llama" --raw -f "$work/long" -c 4096 -n 3 --kv 4/4 --json &&
    dogear verify -m "$llama" -c 4096 --kv 4/4 --json &&
    [ "$(json "$work/out" 'j["n"] == j["n_tok"] > 1000 and j["kl_mean"] > 0 and 0 < j["top1"] <= 1')" = True ]
ok verify__saved_chat__is_measured

# damaged files: one line, no crash, nothing on stdout
size=$(stat -c %s "$story")
bad=0
for cut in 0 3 4 11 24 100 5000 $((size / 2)) $((size - 1)); do
    head -c "$cut" "$story" >"$work/cut.gguf"
    dogear ask -m "$work/cut.gguf" hi
    { [ $rc -eq 1 ] && one_line_error; } || { echo "# cut at $cut: rc $rc"; bad=1; }
done
[ $bad -eq 0 ]
ok damaged__truncated__one_clear_line
python3 - "$story" "$work" <<'P'
import random, sys
data = bytearray(open(sys.argv[1], "rb").read())
random.seed(1)
for i in range(40):
    d = bytearray(data)
    for _ in range(4):
        d[random.randrange(0, 12000)] ^= 1 << random.randrange(8)
    open(f"{sys.argv[2]}/flip{i}.gguf", "wb").write(d)
P
bad=0
for f in "$work"/flip*.gguf; do
    dogear ask -m "$f" -n 2 hi
    # a flip inside a token's text or a weight may well load; a crash may not happen
    { [ $rc -eq 0 ] || [ $rc -eq 1 ]; } || { echo "# $f: rc $rc"; bad=1; }
done
[ $bad -eq 0 ]
ok damaged__bit_flips__never_crash
dogear ask -m "$story" -c 1000000000000 hi; [ $rc -eq 2 ]
ok context__absurd__refused
