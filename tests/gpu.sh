#!/usr/bin/env bash
# Everything that needs a GPU, in one call: correctness first, then NVIDIA's checkers, then the benchmarks.
#
#   tests/gpu.sh build   on a machine with cargo: puts the binaries into target/gpu (carry that folder)
#   tests/gpu.sh run     on the machine with the GPU; needs no cargo. Results also go to $OUT (default target/gpu/results)
set -euo pipefail
cd "$(dirname "$0")/.."
bin=target/gpu

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
  cp target/release/npc target/release/examples/gpu_bench "$bin/"
  strip "$bin"/runtime_tests "$bin"/npc "$bin"/gpu_bench
}

run() {
  local out=${OUT:-$bin/results}
  mkdir -p "$out"
  export NPC_GOLDEN_DIR=$PWD/tests/golden
  "$bin/npc" devices | tee "$out/devices.txt"
  "$bin/runtime_tests" --ignored --test-threads 1 on_a_gpu with_the_library 2>&1 | tee "$out/tests.txt"
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/runtime_tests" --ignored --test-threads 1 \
        on_a_gpu::golden on_a_gpu::models on_a_gpu_operators 2>&1 | tee "$out/$tool.txt"
    done
  else
    echo "compute-sanitizer is not installed: its checks were not run" | tee "$out/sanitizer.txt"
  fi
  for precision in f32 tf32 bf16; do
    "$bin/npc" train models/pytorch-train-step/mlp_adamw_unoptimized.onnx --data fashion-mnist-10k --device cuda \
      --precision $precision --epochs 3 --lr 0.001 --out "$out/run" 2>&1 | tee "$out/train-$precision.txt"
    cat "$out/run/metrics.jsonl" >>"$out/train-$precision.txt"
  done
  "$bin/npc" train models/cnn-train-step/cnn_adamw.onnx --data fashion-mnist-10k --device cuda \
    --epochs 2 --lr 0.001 --out "$out/cnn" 2>&1 | tee "$out/train-cnn.txt"
  "$bin/gpu_bench" models/pytorch-train-step/mlp_adamw_unoptimized.onnx models/pytorch-train-step/transformer_adamw.onnx \
    models/cnn-train-step/cnn_adamw.onnx | tee "$out/bench.txt"
  if python3 -c 'import torch' 2>/dev/null; then
    python3 benchmarks/gpu_torch.py | tee "$out/torch.txt"
  else
    echo "PyTorch is not installed: nothing was compared with it" | tee "$out/torch.txt"
  fi
}

case "${1:-}" in
  build) build ;;
  run) run ;;
  *) build && run ;;
esac
