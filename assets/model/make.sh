#!/bin/sh
# Makes the bundled model again, from the generator to the scored GGUF. Not part of the product build.
#
#   assets/model/make.sh            CPU: 34M tokens, 6K to 7K tokens/s on two cores with bf16 matrix units (BF16=1, COMPILE=1)
#   assets/model/make.sh gpu        one CUDA device: 24.6M parameters, about 20 minutes on a large one
#   assets/model/make.sh rehearse   the GPU path on the CPU with a tiny model, a minute or two: checks the script only
#
# DATA    folder of openly licensed text (../shared/data); without it the generator's own grammar is the only source
# PYTHON  an interpreter with torch >= 2.4 and numpy (pip install torch numpy)
# TOKENS, SECONDS_MAX   token budget, wall-clock limit; BF16=1, COMPILE=1 (needs a C++ compiler) for the CPU: 1.8 times as
#         fast on CPUs with bf16 matrix units, slow on old ones; the GPU run has both anyway
# ONLY_TRAIN=1  ends with the model, unscored
# WORK    where checkpoints go; a run that was interrupted goes on from its last checkpoint
set -eu
cd "$(dirname "$0")"
DATA=${DATA:-../../../shared/data}
PYTHON=${PYTHON:-python3}
WORK=${WORK:-/tmp/dogear-model}
mkdir -p "$WORK"
[ -d "$DATA" ] || DATA=

[ -f tokenizer.json ] || $PYTHON samples.py "$DATA" 4096

case "${1:-cpu}" in
cpu)
    $PYTHON train.py --out "$WORK/cpu" --data "$DATA" --world 2 --tokens "${TOKENS:-34e6}" --seconds "${SECONDS_MAX:-0}" \
        --circuit four --gentle .1 --muon .006 --adam .002 --tail .7 ${BF16:+--bf16} ${COMPILE:+--compile}
    FROM=$WORK/cpu.pt ;;
gpu)
    $PYTHON train.py --out "$WORK/gpu" --data "$DATA" --device cuda --bf16 --compile --feeders "${FEEDERS:-12}" \
        --size gpu --stages gpu --tokens "${TOKENS:-700e6}" --seconds "${SECONDS_MAX:-1000}" --batch 131072 \
        --circuit four --gentle .1 --muon .006 --adam .002 --tail .7 --warm 100
    FROM=$WORK/gpu.pt ;;
rehearse)
    rm -f "$WORK/rehearse.pt"
    for tokens in 20e3 30e3; do                                 # the second run resumes the first
        $PYTHON train.py --out "$WORK/rehearse" --data "$DATA" ${BF16:+--bf16} --feeders 1 --circuit four --gentle .1 --size tiny --stages rehearse \
            --tokens $tokens --batch 2048 --log 5 ${COMPILE:+--compile}
    done
    $PYTHON gguf.py "$WORK/rehearse.pt" "$WORK/rehearse.gguf"
    $PYTHON evaluate.py "$WORK/rehearse.gguf" --limit 1 --lengths 1024
    exit ;;
*)  echo "usage: make.sh [cpu|gpu|rehearse]" >&2; exit 2 ;;
esac

$PYTHON gguf.py "$FROM" dogear-memo.gguf --type q8_0
[ -z "${ONLY_TRAIN:-}" ] || exit 0
$PYTHON suite.py --data "$DATA" --out "$WORK/recall.jsonl"
cmp "$WORK/recall.jsonl" recall.jsonl || echo "recall.jsonl differs from the committed suite (other DATA?)" >&2
$PYTHON evaluate.py dogear-memo.gguf
$PYTHON evaluate.py dogear-memo.gguf --perplexity --data "$DATA"
