#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one go. Nothing is installed where it runs.
#
#   tests/gpu.sh pack DIR [PEER]      where the program's libraries are: builds it, gathers into DIR
#                                     the programs, the libraries they load, where nvcc is the module
#                                     for GPU_ARCH (90), and llama.cpp's sources from PEER; from DATA
#                                     (../shared/data) into DIR-reference and DIR-texts what only the
#                                     stages reference and train need
#   tests/gpu.sh run DIR OUT STAGE... on the machine with the GPU, in this repository
#   tests/gpu.sh limit STAGE...       the most seconds that these stages take
#
# Stages, each with its own time limit; a failing one does not stop the next. Results: OUT/STAGE.log,
# one line each in OUT/summary. What is made on the way lies in GPU_TMP (/tmp/dogear-gpu) and serves
# the next call there.
#   info      the device, what there is, copy bandwidth and matrix rate; whether torch.compile works
#   peerstart begins to build llama.cpp beside all else: not before what is timed; see peerwait
#   build     nothing when the module in DIR opens, else from kernels/cuda for this device (nvcc)
#   kernels   every op against the plain one (test_cuda, test_recurrent); what fails of the first again by
#             itself, under memcheck
#   engine    logits, greedy text, part of the layers, resume CPU -> GPU -> CPU (tests/e2e/cuda.sh),
#             then all of it without graphs of decode steps
#   reference logits against float64 arithmetic and the peer's (test_reference, test_archs); pages that
#             step down (test_ledger); simulated formats (test_evict); pages on their way home (test_seal)
#   memcheck racecheck synccheck   compute-sanitizer on both
#   bench1b-TYPE   Llama-3.2-1B's shape of TYPE q4, q8 or f16 (Q4_K_M, Q8_0, F16); depths 0, 8 K, 32 K,
#                  128 K; f16 and 4/4 caches; prompts of 512 and 8192; decode also without graphs
#   bench8b-TYPE   the same of Llama-3.1-8B, with prompts of 2048 and two repetitions
#   sparse    prefill at coverage 0.9 against dense, 32 K and 128 K
#   offload   half of a model's layers on the GPU
#   profile   the time of every operation; ncu of a few decode steps, where it is installed
#   peerwait  until llama.cpp is built
#   peer1b peer8b  ours on the Q4_K_M files of the two shapes, then llama-bench in the same minute; 8b
#                  not at 128 K, where llama-bench restores 17 GB before each repetition
#   train     assets/model/make.sh gpu for TRAIN_SECONDS (400): OUT/memo.gguf.aa and so on, to be put
#             together with cat
# Calls whose limits sum to less than ten minutes each (`tests/gpu.sh limit STAGE...` adds them up), the
# most useful first; one right behind the other, so that the machine stays. The first three take 26 of
# 30 minutes at most, hardly as much where nothing fails:
#   run DIR OUT info peerstart build kernels engine reference
#   run DIR OUT peerwait bench1b-q4 peer1b profile offload
#   run DIR OUT bench8b-q4 peer8b
#   run DIR OUT sparse memcheck racecheck synccheck
# and, where there is time left: bench1b-q8 bench1b-f16 bench8b-q8; bench8b-f16; train.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() {
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
}

# What stages read of DATA.
reference=(llama-{F16,BF16,Q8_0,Q4_0,Q4_K_M,Q5_K_M,Q6_K,IQ4_XS} llama31-F16 qwen2-F16 qwen3-{F16,Q4_K_M}
    gemma2-F16 phi3-F16)
texts=(mlschmitt__classic-books-markdown alexa__Topical-Chat/conversations/valid_freq.json
    alexa__Topical-Chat/conversations/test_freq.json openai__grade-school-math
    mtbench101__mt-bench-101/data/subjective)

pack_peer() { # pack_peer PEER FILE: what llama-bench is built from
    local part=$2.d
    mkdir -p "$part"
    (cd "$1" && tar cf - CMakeLists.txt LICENSE cmake include src common vendor tools/CMakeLists.txt \
        tools/llama-bench ggml/CMakeLists.txt ggml/cmake ggml/include ggml/src/CMakeLists.txt \
        ggml/src/*.c ggml/src/*.cpp ggml/src/*.h ggml/src/ggml-cpu ggml/src/ggml-cuda) | tar xf - -C "$part" || return 1
    sed -i '/add_subdirectory/{/llama-bench/!d}' "$part/tools/CMakeLists.txt"
    XZ_OPT=-2 tar cJf "$2" -C "$part" . && rm -r "$part"
}

pack_data() { # pack_data DATA DIR
    local name kind there=()
    mkdir -p "$2-reference/reference" "$2-texts"
    for name in "${reference[@]}"; do
        for kind in gguf exact.bin logits.bin; do
            [ ! -f "$1/reference/$name.$kind" ] || cp -f "$1/reference/$name.$kind" "$2-reference/reference/"
        done
    done
    for name in "${texts[@]}"; do
        [ -e "$1/$name" ] && there+=("$name")
    done
    [ ${#there[@]} = 0 ] || XZ_OPT=-2 tar cJf "$2-texts/texts.tar.xz" -C "$1" "${there[@]}"
    chmod -R u+w "$2-reference"
}

pack() {
    local dir=$1 build=$root/build-gpu lib targets data=${DATA:-$root/../shared/data}
    mkdir -p "$dir/lib"
    [ -f "$build/build.ninja" ] || meson setup "$build" "$root" --buildtype=release -Dcuda=auto \
        "-Dgpu_arch=${GPU_ARCH:-90}" || exit 1
    ninja -C "$build" app/dogear tests/kernels/test_{cuda,recurrent} tests/engine/engine_test_reference \
        tests/engine/engine_test_{archs,ledger,evict,seal} tests/bench/mkmodel || exit 1
    cp "$build"/{app/dogear,tests/kernels/test_{cuda,recurrent},tests/bench/mkmodel} \
        "$build"/tests/engine/engine_test_{archs,reference,ledger,evict,seal} "$dir/"
    # not into grep -q: it ends at its match, and ninja's broken pipe would count as "no such target"
    targets=$(ninja -C "$build" -t targets all) || exit 1
    if grep -q '^kernels/cuda/libdogear-cuda.so:' <<<"$targets"; then
        ninja -C "$build" kernels/cuda/libdogear-cuda.so || exit 1
        cp "$build/kernels/cuda/libdogear-cuda.so" "$dir/"
    fi
    # the C library is the target's own
    ldd "$dir"/{dogear,test_{cuda,recurrent},engine_test_{archs,reference,ledger,evict,seal},mkmodel} |
        awk '$3 ~ /^\// {print $3}' | sort -u |
        grep -vE '/(libc|libm|libdl|libpthread|librt|ld-linux[^/]*)\.so' |
        while read -r lib; do cp -L "$lib" "$dir/lib/"; done
    [ -z "${2:-}" ] || pack_peer "$2" "$dir/peer.tar.xz" || exit 1
    [ ! -d "$data" ] || pack_data "$data" "$dir"
    du -shc "$dir" "$dir"-* 2>/dev/null
}

# stage NAME SECONDS COMMAND...
stage() {
    local name=$1 limit=$2 start=$SECONDS rc=0 log=$out/$1.log
    shift 2
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 || rc=$?
    case $rc in
    0) echo "$name: passed in $((SECONDS - start)) s" ;;
    77) echo "$name: skipped: $(tail -1 "$log")" ;;
    124 | 137) echo "$name: FAILED: over $limit s; $(tail -1 "$log")" ;;
    *) echo "$name: FAILED ($rc) after $((SECONDS - start)) s; $(
        grep -E '^not ok|^FAILS|error|=========.*(Invalid|Race|hazard|Barrier)|FAILED' "$log" | head -5 | tr '\n' ';')" ;;
    esac | tee -a "$out/summary"
}

# The module that was built here, or the one that was carried.
module() {
    if [ -f "$tmp/libdogear-cuda.so" ]; then echo "$tmp/libdogear-cuda.so"; else echo "$dir/libdogear-cuda.so"; fi
}

info() {
    local tool
    nvidia-smi || return 1
    uname -srm
    ldd --version | head -1
    for tool in nvcc g++ cmake ninja make xz compute-sanitizer ncu python3; do
        echo "$tool: $(command -v $tool || echo missing)"
    done
    ldd "$dir"/{dogear,test_cuda,engine_test_reference,mkmodel} | grep 'not found'
    DOGEAR_CUDA=$(module) "$dir/dogear" doctor
    python3 -c 'import ctypes; ctypes.CDLL("libcublas.so.13")' && echo "cuBLAS 13 loads"
    ls /usr/local/cuda/lib64/{libcublas.so,stubs/libcuda.so} # what llama.cpp links with
    df -h "$tmp" | tail -1
    PYTHONUNBUFFERED=1 python3 - <<'P' || true
try:
    import torch, time
except ImportError:
    raise SystemExit("no torch: matrix rate not measured")
print("torch", torch.__version__)
def rate(fn, n=10):
    for _ in range(3): fn()
    torch.cuda.synchronize(); t = time.time()
    for _ in range(n): fn()
    torch.cuda.synchronize(); return (time.time() - t) / n
x = torch.empty(1 << 30, device="cuda", dtype=torch.float32); y = torch.empty_like(x)
print(f"copy: {2 * x.numel() * 4 / rate(lambda: y.copy_(x)) / 1e9:.0f} GB/s read and written")
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
h = a.half(); g = b.half()
print(f"f16 8192^3: {2 * 8192**3 / rate(lambda: h @ g) / 1e12:.0f} TFLOP/s")
print(f"bf16 8192^3: {2 * 8192**3 / rate(lambda: a @ b) / 1e12:.0f} TFLOP/s")
try: # last: it may take its time
    torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device="cuda")); print("torch.compile works")
except Exception as e:
    print("torch.compile fails:", str(e)[:300])
P
}

module_opens() { DOGEAR_CUDA=$(module) "$dir/dogear" doctor | grep '^gpu' | grep 'compute capability'; }

build() {
    local obj=$tmp/obj f cc=${CC:-gcc} sm pids=() rc=0
    [ -f "$(module)" ] && module_opens && return
    mkdir -p "$obj"
    sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    for f in "$root"/kernels/cuda/*.cu; do
        local extra=
        [ "$(basename "$f")" = seal.cu ] && extra=-fmad=false
        nvcc -std=c++20 -O3 -lineinfo -Xcompiler -fPIC -Xptxas -v -I "$root" $extra -cudart static \
            -gencode "arch=compute_$sm,code=sm_$sm" -c "$f" -o "$obj/$(basename "$f" .cu).o" &
        pids+=($!)
    done
    for f in quant page; do
        "$cc" -std=gnu11 -D_GNU_SOURCE -O2 -fPIC -I "$root" -c "$root/kernels/$f.c" -o "$obj/c-$f.o" || rc=1
    done
    for f in "${pids[@]}"; do wait "$f" || rc=1; done
    [ $rc = 0 ] && nvcc -shared -cudart static "$obj"/*.o -o "$tmp/libdogear-cuda.so" -lm -ldl && module_opens
}

# After a failing kernel a device answers nothing more: what did not pass runs again, alone.
kernels() {
    local name tap=$tmp/kernels.tap check=() rc=0
    CUDA_MODULE=$(module)
    export CUDA_MODULE CMOCKA_MESSAGE_OUTPUT=TAP
    timeout 60 "$dir/test_recurrent" '*cuda*' || rc=1
    "$dir/test_cuda" 2>&1 | tee "$tap"
    [ "${PIPESTATUS[0]}" = 0 ] && return $rc
    command -v compute-sanitizer >/dev/null && check=(compute-sanitizer --report-api-errors no --error-exitcode 9)
    grep -aoE 'cuda__[a-z0-9]+__[a-z0-9_]+' "$dir/test_cuda" | sort -u | while read -r name; do
        grep -q "^ok .* $name$" "$tap" && continue
        echo "# $name by itself"
        if timeout 20 "$dir/test_cuda" "$name"; then
            echo "# $name passes by itself"
        else
            echo "FAILS $name"
            DOGEAR_CUDA_EXACT=1 timeout 40 "${check[@]}" "$dir/test_cuda" "$name"
        fi
    done
    return 1
}

engine() {
    local graph rc=0
    DOGEAR_CUDA=$(module)
    export DOGEAR_CUDA
    for graph in 1 0; do
        echo "# DOGEAR_CUDA_GRAPH=$graph"
        DOGEAR_CUDA_GRAPH=$graph DOGEAR=$dir/dogear ARCHS=$dir/engine_test_archs N_TOK=${N_TOK:-200} bash "$root/tests/e2e/cuda.sh" || rc=1
    done
    return $rc
}

reference() {
    local t rc=0
    [ -d "$dir-reference" ] || { echo "no $dir-reference here"; return 77; }
    CUDA_MODULE=$(module)
    export CUDA_MODULE DOGEAR_DATA=$dir-reference CMOCKA_MESSAGE_OUTPUT=TAP
    for t in 'archs *cuda*' 'reference *cuda*' 'ledger ledger__mass__*' 'ledger ledger__fit__*' 'evict *cuda*' 'seal *cuda*'; do
        "$dir/engine_test_${t% *}" "${t#* }" || rc=1
    done
    return $rc
}

sanitize() {
    local check=(compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9)
    command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; return 77; }
    CUDA_MODULE=$(module)
    export CUDA_MODULE DOGEAR_CUDA_EXACT=1 CMOCKA_MESSAGE_OUTPUT=TAP
    "${check[@]}" "$dir/test_cuda" && "${check[@]}" "$dir/test_recurrent" '*cuda*'
}

model() { # model SHAPE TYPE: its path, made when it is not there
    local at=$tmp/$1-$2.gguf
    [ -f "$at" ] || { "$dir/mkmodel" "$1" "$2" "$at.part" >&2 && mv "$at.part" "$at"; } || return 1
    echo "$at"
}

ours() { DOGEAR_CUDA=$(module) "$dir/dogear" bench --backend cuda "$@"; }

bench() { # bench SHAPE TYPE PROMPTS REPETITIONS
    local m kv rc=0
    m=$(model "$1" "$2") || return 1
    for kv in exact 4/4; do
        echo "== $1 $2, cache $kv"
        ours -m "$m" --kv $kv --coverage 1 -c 140000 -p "$3" -n 64 -d "$depths" -r "$4" || rc=1
        echo "== the same, decode without graphs"
        DOGEAR_CUDA_GRAPH=0 ours -m "$m" --kv $kv --coverage 1 -c 140000 -p 0 -n 64 -d "$depths" -r "$4" || rc=1
    done
    [ "$2" = Q4_K_M ] || rm -f "$m" # the disk is small
    return $rc
}

sparse() {
    local m c rc=0
    m=$(model llama-3.2-1b Q4_K_M) || return 1
    for c in 1 0.9; do
        echo "== coverage $c (random weights: dense attention, the least that sparsity can gain)"
        ours -m "$m" --kv 8/8 --coverage $c -c 140000 -p 2048 -n 0 -d 32768,131072 -r 2 || rc=1
    done
    return $rc
}

offload() {
    local m n rc=0
    m=$(model llama-3.2-1b Q4_K_M) || return 1
    for n in 16 8 1; do
        echo "== $n of 16 layers on the GPU"
        ours -m "$m" -ngl $n --kv 4/4 -c 4096 -p 512 -n 16 -r 2 || rc=1
    done
    return $rc
}

profile() {
    local m kv
    m=$(model llama-3.2-1b Q4_K_M) || return 1
    for kv in exact 4/4; do
        ours -m "$m" --kv $kv --coverage 1 -c 40000 -p 512,8192 -n 16 -d 0,32768 -r 1 --ops || return 1
    done
    m=$(model qwen35-0.8b Q4_K_M) && ours -m "$m" -c 40000 -p 512,8192 -n 16 -d 0,32768 -r 1 --ops || return 1
    m=$(model llama-3.2-1b Q4_K_M) || return 1
    if command -v ncu >/dev/null; then
        DOGEAR_CUDA=$(module) ncu --clock-control none --launch-skip 2000 --launch-count 60 --csv --page raw \
            --metrics gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed \
            "$dir/dogear" bench --backend cuda -m "$m" --kv 4/4 --coverage 1 -c 40000 -p 0 -n 8 -d 32768 -r 1
    else
        echo "no ncu here"
    fi
}

unpack() { # unpack FILE DIR; tar alone needs an xz program
    mkdir -p "$2" && { tar xf "$1" -C "$2" || python3 -m tarfile -e "$1" "$2"; }
}

peerstart() {
    [ -f "$dir/peer.tar.xz" ] || { echo "no llama.cpp in $dir"; return 77; }
    unpack "$dir/peer.tar.xz" "$tmp/peer/src" || return 1
    export CMAKE_GENERATOR
    command -v ninja >/dev/null && CMAKE_GENERATOR=Ninja
    setsid nohup nice -n 10 bash -c 'cd "$0" && cmake -S src -B b -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES=90-real -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF \
        -DGGML_CUDA_NCCL=OFF && cmake --build b --target llama-bench -j "$(nproc)" && touch done' "$tmp/peer" \
        >"$tmp/peer/log" 2>&1 </dev/null &
    echo "begun"
}

peerwait() {
    [ -d "$tmp/peer" ] || { echo "peerstart did not run here"; return 77; }
    until [ -f "$tmp/peer/done" ]; do
        tail -1 "$tmp/peer/log"
        grep -qE 'Error [0-9]|CMake Error|subcommand failed' "$tmp/peer/log" && { tail -40 "$tmp/peer/log"; return 1; }
        sleep 5
    done
}

peer() { # peer SHAPE [DEPTHS]: alternating would cost the making of contexts twice; the order is told
    local m rc=0 at=${2:-$depths} bench=$tmp/peer/b/bin/llama-bench
    m=$(model "$1" Q4_K_M) || return 1
    ours -m "$m" --kv exact --coverage 1 -c 140000 -p 512,8192 -n 64 -d "$at" -r 3 || rc=1
    [ -x "$bench" ] || { echo "llama.cpp is not built here"; return $((rc ? rc : 77)); }
    LD_LIBRARY_PATH=$tmp/peer/b/bin:$LD_LIBRARY_PATH "$bench" -m "$m" -ngl 99 -fa 1 -p 512,8192 -n 64 \
        -d "$at" -ub 2048 -b 8192 -r 3 || rc=1
    return $rc
}

train() {
    local data='' make=$tmp/model
    [ -f "$dir-texts/texts.tar.xz" ] && unpack "$dir-texts/texts.tar.xz" "$tmp/texts" && data=$tmp/texts
    rm -rf "$make" && cp -r "$root/assets/model" "$make" || return 1
    DATA=${data:-/nonexistent} WORK=$tmp/train PYTHON=python3 SECONDS_MAX=${TRAIN_SECONDS:-400} ONLY_TRAIN=1 \
        FEEDERS=13 PYTHONUNBUFFERED=1 sh "$make/make.sh" gpu || return 1
    split -b 15M "$make/dogear-memo.gguf" "$out/memo.gguf." && sha256sum "$make/dogear-memo.gguf"
}

stages=(info peerstart build kernels engine reference peerwait bench1b-q4 peer1b profile offload bench8b-q4
    peer8b sparse memcheck racecheck synccheck bench1b-q8 bench1b-f16 bench8b-q8 bench8b-f16 train)

# plan STAGE: its limit in seconds and its command, in `plan_limit` and `plan_command`
plan() {
    local type
    case $1 in
    *-q4) type=Q4_K_M ;;
    *-q8) type=Q8_0 ;;
    *) type=F16 ;;
    esac
    case $1 in
    info) plan_limit=60 plan_command=info ;;
    peerstart) plan_limit=10 plan_command=peerstart ;;
    build) plan_limit=110 plan_command=build ;;
    kernels) plan_limit=120 plan_command=kernels ;;
    engine) plan_limit=130 plan_command=engine ;;
    reference) plan_limit=40 plan_command=reference ;;
    memcheck | racecheck | synccheck) plan_limit=130 plan_command="sanitize $1" ;;
    peerwait) plan_limit=160 plan_command=peerwait ;;
    bench1b-q4 | bench1b-q8 | bench1b-f16) plan_limit=110 plan_command="bench llama-3.2-1b $type 512,8192 3" ;;
    bench8b-q4 | bench8b-q8) plan_limit=200 plan_command="bench llama-3.1-8b $type 2048 2" ;;
    bench8b-f16) plan_limit=300 plan_command="bench llama-3.1-8b $type 2048 2" ;;
    peer1b) plan_limit=110 plan_command="peer llama-3.2-1b" ;;
    peer8b) plan_limit=190 plan_command="peer llama-3.1-8b 0,8192,32768" ;;
    sparse) plan_limit=120 plan_command=sparse ;;
    offload) plan_limit=40 plan_command=offload ;;
    profile) plan_limit=100 plan_command=profile ;;
    train) plan_limit=560 plan_command=train ;;
    *)
        echo "gpu.sh: no stage is called $1; there are: ${stages[*]}" >&2
        exit 2
        ;;
    esac
}

limit() {
    local s sum=0
    for s in "$@"; do
        plan "$s"
        sum=$((sum + plan_limit + 5)) # and five to be killed in
    done
    echo "$sum"
}

run() {
    tmp=${GPU_TMP:-/tmp/dogear-gpu}
    dir=$(cd "$1" && pwd) && mkdir -p "$2" "$tmp" && out=$(cd "$2" && pwd) || exit 1
    shift 2
    export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PATH=$PATH:/usr/local/cuda/bin
    local blas
    for blas in /usr/local/cuda/lib64 /usr/local/cuda/lib \
        "$(python3 -c 'import nvidia.cu13 as m; print(list(m.__path__)[0] + "/lib")' 2>/dev/null)"; do
        [ -e "$blas/libcublas.so.13" ] && LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$blas && break
    done
    depths=${DEPTHS:-0,8192,32768,131072}
    export -f unpack module module_opens info build kernels engine reference sanitize model ours bench sparse offload \
        profile peerstart peerwait peer train
    export root dir out tmp depths
    [ $# -gt 0 ] || set -- "${stages[@]}"
    limit "$@" >/dev/null # an unknown stage is told before the first one runs
    local s
    for s in "$@"; do
        plan "$s"
        stage "$s" "$plan_limit" bash -c "$plan_command"
    done
    ! grep -q FAILED "$out/summary"
}

case ${1:-} in
pack) [ $# = 2 ] || [ $# = 3 ] || usage
    shift && pack "$@" ;;
run) [ $# -ge 3 ] || usage
    shift && run "$@" ;;
limit)
    shift
    limit "$@" ;;
*) usage ;;
esac
