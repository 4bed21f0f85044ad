#!/usr/bin/env bash
# Everything that needs a GPU, in one call: correctness first, then NVIDIA's checkers, then the benchmarks, then the table of aims.
#
#   tests/gpu.sh build          on a machine with cargo: puts binaries and models into target/gpu (carry that folder)
#   tests/gpu.sh run [PART ...] on the machine with the GPU; needs no cargo. Results also go to $OUT (default target/gpu/results)
#
# Parts, all by default and in this order: tests sanitizers train bench torch report. A part that fails does not keep the others
# from running; the exit status says that one failed. $NPC_DATA: a folder with all of Fashion-MNIST, for the epoch's time.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=target/gpu
parts="tests sanitizers train bench torch report"

build() {
  mkdir -p "$bin"
  cargo build --release --workspace --all-targets
  local found
  found=$(cargo test --release --workspace --no-run --message-format=json 2>/dev/null |
    python3 -c 'import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable") and m.get("target", {}).get("name") == "npc_runtime" and m["profile"]["test"]:
        print(m["executable"])')
  cp "$found" "$bin/runtime_tests"
  cp target/release/npc target/release/examples/gpu_bench target/release/examples/plan_step "$bin/"
  strip "$bin"/runtime_tests "$bin"/npc "$bin"/gpu_bench "$bin"/plan_step
  models
}

# GPT-2 small's step holds no weights (half a megabyte), so it is made here instead of being shipped.
models() {
  local python=.venv/bin/python
  if [ ! -x "$python" ]; then
    # The environment that .ci/run makes.
    python3 -m venv .venv
    .venv/bin/pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
  fi
  "$python" models/gpt-train-step/make.py --small "$bin/gpt2_small.onnx"
  for precision in f32 bf16; do
    "$bin/plan_step" "$bin/gpt2_small.onnx" $precision
  done
}

run_tests() {
  "$bin/runtime_tests" --ignored --test-threads 1 on_a_gpu with_the_library 2>&1 | tee "$out/tests.txt"
}

run_sanitizers() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed: its checks were not run" | tee "$out/sanitizer.txt"
    return
  fi
  for tool in memcheck racecheck initcheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/runtime_tests" --ignored --test-threads 1 \
      on_a_gpu::golden on_a_gpu::models on_a_gpu_operators 2>&1 | tee "$out/$tool.txt"
  done
}

# Trains a model ($1) at a precision ($2) for $3 epochs; the figures of every epoch go to train-$4.txt, too.
train_one() {
  "$bin/npc" train "$1" --data "$data" --device cuda --precision "$2" --epochs "$3" --lr 0.001 --out "$out/run-$4" 2>&1 |
    tee "$out/train-$4.txt"
  cat "$out/run-$4/metrics.jsonl" >>"$out/train-$4.txt"
}

run_train() {
  local data=fashion-mnist-10k
  if [ -n "${NPC_DATA:-}" ]; then
    data=fashion-mnist
  else
    echo "NPC_DATA is not set: an epoch's time is taken from the 10,000 images that are shipped"
  fi
  for precision in f32 tf32 bf16; do
    train_one models/pytorch-train-step/mlp_adamw_unoptimized.onnx $precision 5 $precision
  done
  train_one models/cnn-train-step/cnn_adamw.onnx f32 2 cnn
}

run_bench() {
  local mlp=models/pytorch-train-step/mlp_adamw_unoptimized.onnx cnn=models/cnn-train-step/cnn_adamw.onnx
  local small=$bin/gpt2_small.onnx
  "$bin/gpu_bench" --json "$out/figures.jsonl" lists $mlp $mlp@tf32 $mlp@bf16 $cnn $cnn@tf32 $cnn@bf16 \
    models/pytorch-train-step/transformer_adamw.onnx "$small@bf16@50257" "$small@f32@50257" | tee "$out/bench.txt"
}

run_torch() {
  if python3 -c 'import torch' 2>/dev/null; then
    python3 benchmarks/gpu_torch.py --json "$out/figures.jsonl" | tee "$out/torch.txt"
  else
    echo "PyTorch is not installed: nothing was compared with it" | tee "$out/torch.txt"
  fi
}

run_report() {
  python3 benchmarks/gpu_report.py "$out" | tee "$out/report.md"
}

run() {
  out=${OUT:-$bin/results}
  mkdir -p "$out"
  export NPC_GOLDEN_DIR=$PWD/tests/golden
  date -u '+%-d %B %Y' >"$out/date.txt"
  "$bin/npc" devices | tee "$out/devices.txt"
  # Figures of a run before must not stand beside this one's; a part run alone adds to what is there.
  [ $# -gt 0 ] || rm -f "$out/figures.jsonl"
  local failed="" part
  for part in ${*:-$parts}; do
    case " $parts " in
      *" $part "*) ;;
      *) echo "'$part' is none of: $parts" >&2 && exit 2 ;;
    esac
    # In a shell of its own, where -e holds.
    set +e
    (set -e && "run_$part")
    [ $? -eq 0 ] || failed="$failed $part"
    set -e
  done
  if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    return 1
  fi
}

case "${1:-}" in
  build) build ;;
  run) shift && run "$@" ;;
  "") build && run ;;
  *) echo "tests/gpu.sh [build | run [PART ...]]" >&2 && exit 2 ;;
esac
