#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one go. Nothing is installed where it runs.
#
#   tests/gpu.sh pack DIR             where the program's libraries are: builds it, gathers into DIR
#                                     the programs, the libraries they load and, where nvcc is, the
#                                     module for GPU_ARCH (90; some 25 MB)
#   tests/gpu.sh run DIR OUT STAGE... on the machine with the GPU, in this repository
#   tests/gpu.sh limit STAGE...       the most seconds that these stages take
#
# Stages, each with its own time limit, in this order when none is named (then for more than ten
# minutes); a failing one does not stop the next. Results: OUT/STAGE.log, one line each in OUT/summary.
#   info      the device, copy bandwidth and matrix rate
#   build     the module from kernels/cuda for this device (nvcc), -lineinfo; nothing when DIR has one
#   kernels   every op against the plain one (test_cuda)
#   engine    logits, greedy text, part of the layers, resume CPU -> GPU -> CPU (tests/e2e/cuda.sh),
#             then all of it with decode steps as graphs
#   memcheck racecheck   compute-sanitizer on test_cuda
#   bench1b-TYPE   Llama-3.2-1B's shape of TYPE q4, q8 or f16 (Q4_K_M, Q8_0, F16); depths 0, 8 K, 32 K,
#                  128 K; f16 and 4/4 caches; decode also as a graph
#   bench8b-TYPE   the same of Llama-3.1-8B
#   sparse    prefill at coverage 0.9 against dense, 32 K and 128 K
#   offload   half of a model's layers on the GPU
#   profile   the time of every operation; ncu of a few decode steps, where it is installed
# Calls whose limits sum to less than ten minutes each (`tests/gpu.sh limit STAGE...` adds them up);
# without a module from `pack`, build comes first wherever DIR was left behind:
#   run DIR OUT info build kernels
#   run DIR OUT engine memcheck racecheck
#   run DIR OUT bench1b-q4 bench1b-q8 bench1b-f16 sparse
#   run DIR OUT bench8b-q4 bench8b-q8
#   run DIR OUT bench8b-f16 offload profile
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() {
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
}

pack() {
    local dir=$1 build=$root/build-gpu lib
    mkdir -p "$dir/lib"
    [ -f "$build/build.ninja" ] || meson setup "$build" "$root" --buildtype=release -Dcuda=auto \
        "-Dgpu_arch=${GPU_ARCH:-90}" || exit 1
    ninja -C "$build" app/dogear tests/kernels/test_cuda tests/bench/mkmodel || exit 1
    cp "$build/app/dogear" "$build/tests/kernels/test_cuda" "$build/tests/bench/mkmodel" "$dir/"
    if ninja -C "$build" -t targets all | grep -q '^kernels/cuda/libdogear-cuda.so:'; then
        ninja -C "$build" kernels/cuda/libdogear-cuda.so || exit 1
        cp "$build/kernels/cuda/libdogear-cuda.so" "$dir/"
    fi
    # the C library is the target's own
    ldd "$dir/dogear" "$dir/test_cuda" "$dir/mkmodel" | awk '$3 ~ /^\// {print $3}' | sort -u |
        grep -vE '/(libc|libm|libdl|libpthread|librt|ld-linux[^/]*)\.so' |
        while read -r lib; do cp -L "$lib" "$dir/lib/"; done
    du -sh "$dir"
}

# stage NAME SECONDS COMMAND...
stage() {
    local name=$1 limit=$2 start=$SECONDS rc=0
    shift 2
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
    case $rc in
    0) echo "$name: passed in $((SECONDS - start)) s" ;;
    77) echo "$name: skipped: $(tail -1 "$out/$name.log")" ;;
    124 | 137) echo "$name: FAILED: over $limit s; $(tail -1 "$out/$name.log")" ;;
    *) echo "$name: FAILED ($rc) after $((SECONDS - start)) s; $(grep -m1 -E 'not ok|error|FAILED|=========' "$out/$name.log")" ;;
    esac | tee -a "$out/summary"
}

info() {
    nvidia-smi || return 1
    nvcc --version | tail -2
    python3 - <<'P' || true
try:
    import torch, time
except ImportError:
    raise SystemExit("no torch: matrix rate not measured")
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
h = a.half(); g = b.half()
def rate(fn, n=10):
    for _ in range(3): fn()
    torch.cuda.synchronize(); t = time.time()
    for _ in range(n): fn()
    torch.cuda.synchronize(); return (time.time() - t) / n
print(f"bf16 8192^3: {2 * 8192**3 / rate(lambda: a @ b) / 1e12:.0f} TFLOP/s")
print(f"f16 8192^3: {2 * 8192**3 / rate(lambda: h @ g) / 1e12:.0f} TFLOP/s")
x = torch.empty(1 << 30, device="cuda", dtype=torch.float32); y = torch.empty_like(x)
print(f"copy: {2 * x.numel() * 4 / rate(lambda: y.copy_(x)) / 1e9:.0f} GB/s read and written")
P
}

build() {
    local tmp=$dir/obj f cc=${CC:-gcc} sm pids=() rc=0
    [ -f "$dir/libdogear-cuda.so" ] && echo "the module is there" && return
    mkdir -p "$tmp"
    sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    for f in "$root"/kernels/cuda/*.cu; do
        local extra=
        [ "$(basename "$f")" = seal.cu ] && extra=-fmad=false
        nvcc -std=c++20 -O3 -lineinfo -Xcompiler -fPIC -Xptxas -v -I "$root" $extra -cudart static \
            -gencode "arch=compute_$sm,code=sm_$sm" -c "$f" -o "$tmp/$(basename "$f" .cu).o" &
        pids+=($!)
    done
    for f in quant page; do
        "$cc" -std=gnu11 -D_GNU_SOURCE -O2 -fPIC -I "$root" -c "$root/kernels/$f.c" -o "$tmp/c-$f.o" || rc=1
    done
    for f in "${pids[@]}"; do wait "$f" || rc=1; done
    [ $rc = 0 ] && nvcc -shared -cudart static "$tmp"/*.o -o "$dir/libdogear-cuda.so" -lm -ldl
}

kernels() { CUDA_MODULE=$dir/libdogear-cuda.so CMOCKA_MESSAGE_OUTPUT=TAP "$dir/test_cuda"; }

engine() {
    local graph rc=0
    for graph in 0 1; do
        echo "# DOGEAR_CUDA_GRAPH=$graph"
        DOGEAR_CUDA_GRAPH=$graph DOGEAR=$dir/dogear N_TOK=400 bash "$root/tests/e2e/cuda.sh" || rc=1
    done
    return $rc
}

sanitize() {
    command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; return 77; }
    CUDA_MODULE=$dir/libdogear-cuda.so CMOCKA_MESSAGE_OUTPUT=TAP \
        compute-sanitizer --tool "$1" --error-exitcode 9 "$dir/test_cuda"
}

model() { # model SHAPE TYPE: its path, made when it is not there
    local at=$dir/$1-$2.gguf
    [ -f "$at" ] || "$dir/mkmodel" "$1" "$2" "$at.part" && [ -f "$at" ] || mv "$at.part" "$at"
    echo "$at"
}

bench() { # bench SHAPE TYPE
    local m kv rc=0
    m=$(model "$1" "$2") || return 1
    for kv in exact 4/4; do
        echo "== $1 $2, cache $kv"
        "$dir/dogear" bench -m "$m" --backend cuda --kv $kv --coverage 1 -c 140000 \
            -p 512,8192 -n 64 -d 0,8192,32768,131072 -r 3 || rc=1
        echo "== the same, decode as a graph"
        DOGEAR_CUDA_GRAPH=1 "$dir/dogear" bench -m "$m" --backend cuda --kv $kv --coverage 1 \
            -c 140000 -p 0 -n 64 -d 0,8192,32768,131072 -r 3 || rc=1
    done
    rm -f "$m" # the disk is small
    return $rc
}

sparse() {
    local m c rc=0
    m=$(model llama-3.2-1b Q8_0) || return 1
    for c in 1 0.9; do
        echo "== coverage $c (random weights: dense attention, the least that sparsity can gain)"
        "$dir/dogear" bench -m "$m" --backend cuda --kv 8/8 --coverage $c -c 140000 -p 2048 -n 0 \
            -d 32768,131072 -r 2 || rc=1
    done
    return $rc
}

offload() {
    local m n rc=0
    m=$(model llama-3.2-1b Q4_K_M) || return 1
    for n in 16 8 1; do
        echo "== $n of 16 layers on the GPU"
        "$dir/dogear" bench -m "$m" --backend cuda -ngl $n --kv 4/4 -c 4096 -p 512 -n 16 -r 2 || rc=1
    done
    return $rc
}

profile() {
    local m kv
    m=$(model llama-3.2-1b Q4_K_M) || return 1
    for kv in exact 4/4; do
        "$dir/dogear" bench -m "$m" --backend cuda --kv $kv --coverage 1 -c 40000 -p 512 -n 16 \
            -d 0,32768 -r 1 --ops || return 1
    done
    if command -v ncu >/dev/null; then
        ncu --clock-control none --launch-skip 2000 --launch-count 60 --csv --page raw \
            --metrics gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed \
            "$dir/dogear" bench -m "$m" --backend cuda --kv 4/4 --coverage 1 -c 40000 -p 0 -n 8 \
            -d 32768 -r 1
    else
        echo "no ncu here"
    fi
}

stages=(info build kernels engine memcheck racecheck bench1b-q4 bench1b-q8 bench1b-f16
    bench8b-q4 bench8b-q8 bench8b-f16 sparse offload profile)

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
    build) plan_limit=360 plan_command=build ;;
    kernels) plan_limit=120 plan_command=kernels ;;
    engine) plan_limit=200 plan_command=engine ;;
    memcheck | racecheck) plan_limit=180 plan_command="sanitize $1" ;;
    bench1b-q4 | bench1b-q8 | bench1b-f16) plan_limit=130 plan_command="bench llama-3.2-1b $type" ;;
    bench8b-q4 | bench8b-q8) plan_limit=270 plan_command="bench llama-3.1-8b $type" ;;
    bench8b-f16) plan_limit=420 plan_command="bench llama-3.1-8b $type" ;;
    sparse) plan_limit=150 plan_command=sparse ;;
    offload) plan_limit=40 plan_command=offload ;;
    profile) plan_limit=110 plan_command=profile ;;
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
    dir=$(cd "$1" && pwd) && mkdir -p "$2" && out=$(cd "$2" && pwd) || exit 1
    shift 2
    export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    local blas
    for blas in /usr/local/cuda/lib64 /usr/local/cuda/lib \
        "$(python3 -c 'import nvidia.cu13 as m; print(list(m.__path__)[0] + "/lib")' 2>/dev/null)"; do
        [ -e "$blas/libcublas.so.13" ] && LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$blas && break
    done
    export DOGEAR_CUDA=$dir/libdogear-cuda.so
    export -f info build kernels engine sanitize model bench sparse offload profile
    export root dir out
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
pack) [ $# = 2 ] && pack "$2" || usage ;;
run) [ $# -ge 3 ] || usage
    shift && run "$@" ;;
limit)
    shift
    limit "$@" ;;
*) usage ;;
esac
