#!/usr/bin/env bash
# Everything that needs a GPU: correctness first, then NVIDIA's checkers, then the benchmarks, then the table of aims.
#
#   tests/gpu.sh build             on a machine with cargo: puts binaries and GPT-2 small's step into target/gpu/npc.tar.xz
#   tests/gpu.sh run [PART ...]    on the machine with the GPU, where that file was copied to; needs no cargo
#   tests/gpu.sh merge FOLDER ...  puts the results of several calls together, in their order, into target/gpu/merged
#
# A part that fails does not keep the others from running; the exit status says that one failed. Parts, in this order, and the
# minutes that each may take on an H100 (estimates: none was run on a GPU yet):
#
#   tests          2–4   every test that needs a GPU, each in a process of its own
#   memcheck       3–5   compute-sanitizer on some of them; initcheck on the golden vectors alone: NVIDIA's libraries read
#   racecheck      3–5   memory that nobody wrote, on purpose
#   initcheck      1–2
#   train          1     epochs of the MLP in three precisions and of the CNN
#   bench          3–4   the fused step on lists, whole steps
#   torch-lists    1     PyTorch's fused AdamW on the same lists
#   torch-restated 1     the method in eager PyTorch
#   torch-steps    3–6   PyTorch's steps of the MLP and the CNN
#   torch-gpt      4–7   PyTorch's step of GPT-2 small in bfloat16
#   torch-gpt-f32  6–9   the same in float32; only when asked for
#
# `run` alone takes all parts but the last. Where a call may take ten minutes, these do, each with NPC_SECONDS=570:
#
#   run tests train initcheck · run bench torch-lists torch-restated · run torch-steps · run torch-gpt · run memcheck racecheck ·
#   run torch-gpt-f32
#
# Variables: NPC_SECONDS, what the whole call may take (a part that has no time left fails); OUT, a folder that gets report.md,
# figures.jsonl, devices.txt, tests.txt and logs.tar.gz, also when something fails (all is in target/gpu/results, too);
# NPC_PYTHON, a Python that has torch (else the first python3 on PATH that imports it); NPC_CUDA_LIBS, where cuBLASLt and cuDNN
# are (else that Python's environment is searched); NPC_DATA, a folder with all of Fashion-MNIST (four files, 30 MB), for the
# epoch's time.
set -euo pipefail
cd "$(dirname "$0")/.."
gpu=target/gpu
archive=$gpu/npc.tar.xz
parts="tests memcheck racecheck initcheck train bench torch-lists torch-restated torch-steps torch-gpt"
source tests/gpu_parts.sh

build() {
  local found python=.venv/bin/python folder
  cargo build --release --workspace --all-targets
  found=$(cargo test --release --workspace --no-run --message-format=json 2>/dev/null |
    python3 -c 'import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable") and m.get("target", {}).get("name") == "npc_runtime" and m["profile"]["test"]:
        print(m["executable"])')
  if [ ! -x "$python" ]; then
    # The environment that .ci/run makes.
    python3 -m venv .venv
    .venv/bin/pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
  fi
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT
  cp "$found" "$folder/runtime_tests"
  cp target/release/npc target/release/examples/gpu_bench "$folder/"
  strip "$folder"/*
  "$python" models/gpt-train-step/make.py --small "$folder/gpt2_small.onnx"
  for precision in f32 bf16; do
    target/release/examples/plan_step "$folder/gpt2_small.onnx" $precision
  done
  mkdir -p "$gpu"
  # What the binaries have in common lies tens of megabytes apart, beyond the dictionaries of xz's presets.
  python3 - "$folder" "$archive" <<'END'
import lzma, pathlib, sys, tarfile
filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 27}]
with lzma.open(sys.argv[2], "wb", filters=filters) as out, tarfile.open(fileobj=out, mode="w|") as tar:
    for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        tar.add(path, path.name)
END
  ls -lh "$archive"
}

# Unpacks the archive into $bin, a folder that goes when the call ends.
unpack() {
  if command -v xz >/dev/null; then
    xz -dc "$archive" | tar -xf - -C "$bin"
  else
    "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$archive" "$bin"
  fi
}

# The first Python that imports torch; the first of all where none does. Where it is an environment, libraries are looked for there.
find_python() {
  local each
  has_torch=""
  python=$(command -v python3 || true)
  for each in ${NPC_PYTHON:-$(type -aP python3 || true)}; do
    if bounded 90 "$each" -c 'import torch' >/dev/null 2>&1; then
      python=$each has_torch=1
      [ -n "${VIRTUAL_ENV:-}" ] && [ -z "${NPC_PYTHON:-}" ] || VIRTUAL_ENV=$("$each" -c 'import sys; print(sys.prefix)')
      export VIRTUAL_ENV
      return
    fi
  done
}

# What the GPU is and how it is doing.
describe() {
  echo "$1"
  "$bin/npc" devices || true
  if command -v nvidia-smi >/dev/null; then
    local fields=name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem
    bounded 30 nvidia-smi --query-gpu=$fields,power.limit,temperature.gpu --format=csv || echo "nvidia-smi failed"
  fi
}

report() {
  if [ -n "$python" ]; then
    "$python" benchmarks/gpu_report.py "$1" >"$1/report.md"
  else
    echo "There is no python3 here to write a report: see figures.jsonl, and tests/gpu.sh merge" >"$1/report.md"
  fi
}

# At the end of a call, however it ends.
finish() {
  local status=$? file
  trap - EXIT
  set +e
  ends=$((SECONDS + 30))
  describe "after the parts" >>"$results/devices.txt" 2>&1
  report "$results" || status=1
  cat "$results/report.md"
  if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    for file in report.md figures.jsonl devices.txt tests.txt; do
      [ ! -f "$results/$file" ] || cp "$results/$file" "$OUT/"
    done
    tar -czf "$OUT/logs.tar.gz" -C "$results" logs
  fi
  rm -rf "$bin"
  exit $status
}

run() {
  local part wanted="${*:-$parts}" failed="" began seconds outcome end=${NPC_SECONDS:-864000}
  for part in $wanted; do
    [[ " $parts torch-gpt-f32 " == *" $part "* ]] || { echo "'$part' is none of: $parts torch-gpt-f32" >&2 && exit 2; }
  done
  [ -f "$archive" ] || { echo "there is no $archive: make it with tests/gpu.sh build, and copy it here" >&2 && exit 2; }
  # Half a minute is left for the report and what it takes along.
  ends=$((end - 30))
  results=$gpu/results figures=$gpu/results/figures.jsonl
  # Figures of a run before must not stand beside a whole one's; parts run alone add to what is there.
  [ $# -gt 0 ] || rm -rf "$results"
  mkdir -p "$results/logs"
  bin=$(mktemp -d)
  find_python
  trap finish EXIT
  trap 'exit 143' INT TERM
  unpack
  export NPC_ROOT=$PWD NPC_GOLDEN_DIR=$PWD/tests/golden PYTHONUNBUFFERED=1
  # Where a toolkit puts compute-sanitizer.
  export PATH=$PATH:/usr/local/cuda/bin
  describe "before the parts" >"$results/devices.txt" 2>&1
  cat "$results/devices.txt"
  figure run "date=$(date -u '+%-d %B %Y')" "device=$(sed -n 's/^cuda:0 *\([^,]*\),.*/\1/p' "$results/devices.txt" | head -n 1)"
  for part in $wanted; do
    echo "== $part"
    began=$SECONDS
    ends=$((began + $(limit "$part")))
    [ $ends -lt $((end - 30)) ] || ends=$((end - 30))
    # In a shell of its own, where -e holds.
    set +e
    (set -e && "run_${part%%-*}" "$part") 2>&1 | tee "$results/logs/$part.txt"
    outcome=${PIPESTATUS[0]}
    set -e
    seconds=$((SECONDS - began))
    if [ "$outcome" -eq 0 ]; then
      figure part "part=$part" outcome=passed "seconds=$seconds"
    else
      figure part "part=$part" outcome=failed "seconds=$seconds"
      failed="$failed $part"
    fi
  done
  if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    return 1
  fi
}

merge() {
  local folder file merged=$gpu/merged
  [ $# -gt 0 ] || { echo "tests/gpu.sh merge FOLDER ..." >&2 && exit 2; }
  rm -rf "$merged"
  mkdir -p "$merged"
  for folder in "$@"; do
    [ -f "$folder/figures.jsonl" ] || { echo "$folder holds no figures.jsonl" >&2 && exit 1; }
    for file in figures.jsonl devices.txt tests.txt; do
      [ ! -f "$folder/$file" ] || cat "$folder/$file" >>"$merged/$file"
    done
  done
  python=${NPC_PYTHON:-python3}
  report "$merged"
  cat "$merged/report.md"
}

case "${1:-}" in
  build | run | merge) "$@" ;;
  "") (build) && run ;;
  *) echo "tests/gpu.sh [build | run [PART ...] | merge FOLDER ...]" >&2 && exit 2 ;;
esac
