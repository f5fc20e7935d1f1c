#!/usr/bin/env bash
# The whole engine on the CUDA backend, against itself on the CPU: logits, greedy text, and one
# conversation that goes CPU -> CUDA -> CPU. DOGEAR_CUDA is the module: the device's, or the shim.
# MODEL: a small trained model (default: the bundled one). ARCHS writes small random ones, of experts
# among them.
. "$(dirname "$0")/lib.sh"
model=${MODEL:-$(dirname "$0")/../../assets/model/dogear-memo.gguf}
module=$DOGEAR_CUDA

# compare NAME TOLERANCE: logits of the two backends; prints what it found
compare() {
    python3 - "$work/cpu.f32" "$work/cuda.f32" "$1" "$2" <<'P'
import array, math, os, sys
a, b = array.array("f"), array.array("f")
a.frombytes(open(sys.argv[1], "rb").read())
b.frombytes(open(sys.argv[2], "rb").read())
n_tok, limit = int(sys.argv[3]), float(sys.argv[4])
n = len(a) // n_tok
assert len(a) == len(b) and n > 0, (len(a), len(b))
worst = agree = asked = 0
kl = 0.0
for t in range(n_tok):
    x, y = a[t * n:(t + 1) * n], b[t * n:(t + 1) * n]
    mx, my = max(x), max(y)
    zx = math.log(sum(math.exp(v - mx) for v in x)) + mx
    zy = math.log(sum(math.exp(v - my) for v in y)) + my
    kl += sum(math.exp(p - zx) * ((p - zx) - (q - zy)) for p, q in zip(x, y)) / n_tok
    worst = max(worst, max(abs(p - q) for p, q in zip(x, y)))
    first, second = sorted(x)[-1:-3:-1]
    if first - second > 1e-2:
        asked += 1
        agree += y.index(my) == x.index(mx)
print(f"# {n_tok} tokens: KL {kl:.3g}, largest difference {worst:.3g}, top-1 {agree} of {asked}")
sys.exit(not (kl < limit and agree >= asked * 0.99))
P
}

n_tok=${N_TOK:-40}
python3 -c "
import array
array.array('i', [(i * 7919 + i * i) % 400 + 5 for i in range($n_tok)]).tofile(open('$work/ids', 'wb'))"
dogear logits -m "$model" --backend cpu --tokens "$work/ids" --out "$work/cpu.f32" -c 512
ok cuda__logits__cpu_side_runs
dogear logits -m "$model" --backend cuda --tokens "$work/ids" --out "$work/cuda.f32" -c 512
ok cuda__logits__device_side_runs
compare "$n_tok" 1e-3
ok cuda__logits__agree_with_the_cpu

ask() { dogear ask -m "$model" -c 1024 --temp 0 -n 12 --json "$@"; }
ask --no-save --backend cpu "My dog is called Rex. What is my dog called?"
json "$work/out" 'j["answer"]' >"$work/want"
ask --no-save --backend cuda "My dog is called Rex. What is my dog called?" &&
    json "$work/out" 'j["answer"]' | cmp - "$work/want"
ok cuda__ask__greedy_text_is_the_cpus
DOGEAR_CUDA_GRAPH=0 ask --no-save --backend cuda "My dog is called Rex. What is my dog called?" &&
    json "$work/out" 'j["answer"]' | cmp - "$work/want"
ok cuda__ask__the_same_with_single_launches

# Of few tokens, so that the device rounds nothing that the CPU does not: routers choose alike.
if [ -n "${ARCHS:-}" ]; then
    mkdir "$work/models" && "$ARCHS" write "$work/models"
    bad=0
    for m in llama-moe qwen3moe granitemoe olmoe gpt-oss qwen2moe glm4moe; do
        say=(ask -m "$work/models/$m.gguf" -c 256 --temp 0 -n 8 --json --no-save)
        dogear "${say[@]}" --backend cpu "A fox"
        json "$work/out" 'j["answer"]' >"$work/want"
        for more in "" "-ngl 3" single; do # all layers, three of six, steps as single launches
            set -- ${more#single}
            DOGEAR_CUDA_GRAPH=$([ "$more" = single ] && echo 0) dogear "${say[@]}" --backend cuda "$@" "A fox" &&
                json "$work/out" 'j["answer"]' | cmp - "$work/want" || { echo "# $m $more" && bad=1; }
        done
    done
    [ $bad = 0 ]
    ok cuda__experts__greedy_text_is_the_cpus
fi

# Long enough that blocks are sealed: filler, then turns that must resume from stored pages.
filler=$(for i in 1 2 3 4 5 6 7 8; do printf 'My cat number %d is called Minka. ' $i; done)
talk() { # talk DB BACKEND BACKEND BACKEND: three turns; answers and tokens reused
    local db=$1 id= b
    shift
    for b in "$@"; do
        ask --kv 8/8 --db "$db" --backend "$b" ${id:+-r "$id"} "$filler What is my cat called?" || return 1
        id=$(json "$work/out" 'j["conversation"]')
        json "$work/out" 'j["tokens_reused"], j["answer"]'
    done
}
talk "$work/a.db" cpu cpu cpu >"$work/want"
ok cuda__resume__cpu_talks
talk "$work/b.db" cpu cuda cpu >"$work/got" && cmp "$work/got" "$work/want"
ok cuda__resume__cpu_cuda_cpu_reuses_and_says_the_same
sed -n 2,3p "$work/got" | grep -qv '^(0,'
ok cuda__resume__pages_were_reused

# A budget that 8/8 pages of the prompt do not fit (1.28 MB): they step down on the device.
squeeze() { # squeeze BACKEND
    ask --no-save --backend "$1" --kv adaptive --kv-budget 1300K "$(for i in {1..80}; do
        printf 'My cat number %d is called Minka. ' "$i"
    done) What is my cat called?" && json "$work/out" 'j["answer"], j["kv_bytes"] < 1200000'
}
if [ -z "${FAKE_NVML:-}" ]; then # the shim would take minutes for so many tokens; test_ledger is shorter
    squeeze cpu >"$work/want" && grep -q True "$work/want"
    ok cuda__budget__cpu_steps_down
    squeeze cuda | cmp - "$work/want"
    ok cuda__budget__steps_down_and_says_the_same
fi

dogear bench -m "$model" --backend cuda -ngl 1 -p 8 -n 2 -r 1 --ops --json
json "$work/out" 'all(r["ops"]["matmul"]["calls"] > 0 and r["ops"]["attend"]["s"] > 0 for r in j)' | grep -q True
ok cuda__bench__times_every_op

DOGEAR_CUDA=/nonexistent/module.so dogear ask -m "$model" --no-save --backend cuda hi
[ $rc -eq 1 ] && one_line_error && grep -q /nonexistent/module.so "$work/err"
ok cuda__missing_module__one_line
for n in 1 2; do # of its layers on the device, the others and the embeddings on the host
    dogear logits -m "$model" --backend cuda -ngl $n --tokens "$work/ids" --out "$work/cuda.f32" -c 512
    [ $rc -eq 0 ] && compare "$n_tok" 1e-3
    ok "cuda__partial_offload__${n}_layers_agree_with_the_cpu"
done

if [ -n "${FAKE_NVML:-}" ]; then # else the driver's own, which says what it likes
    DOGEAR_NVML=$FAKE_NVML dogear doctor
    grep '^gpu' "$work/out" | grep -q '61 °C, 75 W, 3 % busy'
    ok cuda__doctor__shows_what_nvml_says
    DOGEAR_NVML=/nonexistent/nvml.so dogear doctor
    [ ! -s "$work/err" ] && grep '^gpu' "$work/out" | grep -q 'compute capability' &&
        ! grep '^gpu' "$work/out" | grep -q '°C'
    ok cuda__doctor__goes_without_nvml
fi

# Beside the program, where the build tree and an installation have it.
unset DOGEAR_CUDA
for at in app:kernels/cuda bin:lib/dogear; do
    mkdir -p "$work/tree/${at%:*}" "$work/tree/${at#*:}"
    cp "$DOGEAR" "$work/tree/${at%:*}/dogear"
    cp "$module" "$work/tree/${at#*:}/libdogear-cuda.so"
    "$work/tree/${at%:*}/dogear" doctor 2>&1 | grep '^gpu' | grep -q 'compute capability'
    ok "cuda__module__found_in_${at#*:}"
    rm -r "$work/tree"
done
