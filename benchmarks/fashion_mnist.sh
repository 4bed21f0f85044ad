#!/usr/bin/env bash
# Test accuracy of the MLP 784-256-256-10 on the full Fashion-MNIST after 10 epochs, batch 128, seeds 41-43, for four ways to train it.
# Usage: benchmarks/fashion_mnist.sh [RUNS_DIR]; needs the full data set (see `npc train --data fashion-mnist`).
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs/fashion-mnist}
npc=${NPC:-target/release/npc}
model=models/pytorch-train-step/mlp_adamw_unoptimized.onnx
declare -A options=(
  [paper]="--preset paper --base classic --lr 0.1"
  [ablation]="--preset paper --base classic --set mode=ablation_grad_only --lr 0.1"
  [adamw-kept]="--optimizer keep --lr 0.001"
  [base-adamw]="--lr 0.001"
)
for name in paper ablation adamw-kept base-adamw; do
  for seed in 41 42 43; do
    # shellcheck disable=SC2086
    "$npc" train "$model" --data fashion-mnist --epochs 10 --seed "$seed" --threads 1 --out "$runs/$name-$seed" ${options[$name]} >/dev/null 2>&1
  done
done
python3 - "$runs" <<'PY'
import json, pathlib, sys
print(f"{'run':<12} {'seed 41':>8} {'seed 42':>8} {'seed 43':>8} {'mean':>8} {'samples/s':>10}")
for name in ("paper", "ablation", "adamw-kept", "base-adamw"):
    last = [json.loads((pathlib.Path(sys.argv[1]) / f"{name}-{seed}" / "metrics.jsonl").read_text().splitlines()[-1]) for seed in (41, 42, 43)]
    accuracy = [e["test_accuracy"] for e in last]
    speed = sorted(e["samples_per_second"] for e in last)[1]
    print(f"{name:<12} " + " ".join(f"{a:8.4f}" for a in accuracy) + f" {sum(accuracy) / 3:8.4f} {speed:10.0f}")
PY
