# The parts of tests/gpu.sh, which reads this file. Each is a function that gets its part's name, runs what takes time through
# `bounded`, and fails when something in it failed. They find binaries in $bin, add to $figures and leave the rest in $results.

# Seconds that a part may take.
limit() {
  case "$1" in
    tests) echo 330 ;;
    train) echo 120 ;;
    bench) echo 300 ;;
    torch-lists | torch-restated) echo 110 ;;
    initcheck) echo 150 ;;
    *check) echo 265 ;;
    *) echo 560 ;;
  esac
}

# bounded SECONDS COMMAND ...: runs it, but no longer than that and not beyond the end of its part. Status 124: it was ended.
bounded() {
  local seconds=$1 left=$((ends - SECONDS))
  shift
  [ "$seconds" -lt "$left" ] || seconds=$left
  if [ "$seconds" -le 0 ]; then
    echo "no time is left for: $*" >&2
    return 124
  fi
  timeout -k 10 "$seconds" "$@"
}

# figure KIND NAME=VALUE ...: a line of figures.jsonl. Digits alone are a number.
figure() {
  local line="{\"kind\": \"$1\"" value pair
  shift
  for pair in "$@"; do
    value=$(printf '%s' "${pair#*=}" | tr -d '"\\' | tr '\n\t' '  ')
    [[ $value =~ ^(0|[1-9][0-9]*)$ ]] || value="\"$value\""
    line="$line, \"${pair%%=*}\": $value"
  done
  printf '%s}\n' "$line" >>"$figures"
}

# ended STATUS: what became of a command of `bounded`. Killed: out of time and deaf to it, or out of memory.
ended() {
  case "$1" in
    0) echo passed ;;
    124) echo "out of time" ;;
    137) echo killed ;;
    *) echo failed ;;
  esac
}

# One test a process: after a fault on the GPU every later call of the process fails.
run_tests() {
  local all name status began failed=0
  : >"$results/tests.txt"
  all=$("$bin/runtime_tests" --list --ignored on_a_gpu with_the_library | sed -n 's/: test$//p')
  for name in $all; do
    began=$SECONDS status=0
    bounded 150 "$bin/runtime_tests" --ignored --exact "$name" --nocapture >"$results/logs/test.txt" 2>&1 || status=$?
    cat "$results/logs/test.txt" >>"$results/tests.txt"
    # What takes part must have run.
    [ $status -ne 0 ] || grep -q "^test result: ok. 1 passed" "$results/logs/test.txt" || status=1
    [ $status -eq 0 ] || failed=1
    [ $status -eq 0 ] || tail -n 25 "$results/logs/test.txt"
    echo "$name: $(ended $status), $((SECONDS - began)) s" | tee -a "$results/tests.txt"
    figure test "name=$name" "outcome=$(ended $status)" "seconds=$((SECONDS - began))"
  done
  rm -f "$results/logs/test.txt"
  [ -n "$all" ] && return $failed
}

# One of NVIDIA's checkers on tests of few steps.
check_with() {
  local tool=$1 name status began said failed=0
  shift
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed: $tool was not run"
    figure check "tool=$tool" name=all "outcome=not installed"
    return 1
  fi
  for name in "$@"; do
    began=$SECONDS status=0 said=$results/logs/$tool-${name##*::}.txt
    NPC_TEST_STEPS=2 bounded 200 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$bin/runtime_tests" --ignored --exact "$name" --nocapture >"$said" 2>&1 || status=$?
    # A checker that could not look at this device has no summary.
    [ $status -ne 0 ] || grep -q "SUMMARY: 0 " "$said" || status=1
    [ $status -ne 0 ] || grep -q "^test result: ok. 1 passed" "$said" || status=1
    [ $status -eq 0 ] || failed=1
    [ $status -eq 0 ] || tail -n 25 "$said"
    echo "$tool, $name: $(ended $status), $((SECONDS - began)) s; $(grep "SUMMARY" "$said" | tail -n 1 || true)"
    figure check "tool=$tool" "name=$name" "outcome=$(ended $status)" "seconds=$((SECONDS - began))"
  done
  return $failed
}

run_memcheck() {
  check_with memcheck plan::tests::on_a_gpu::golden_vectors plan::tests::on_a_gpu::a_convolutional_network_steps_as_on_the_cpu \
    plan::conformance::on_a_gpu_values_of_16_bits_are_the_cpus plan::conformance::on_a_gpu_operators_agree_with_onnxruntime
}

run_racecheck() {
  check_with racecheck plan::tests::on_a_gpu::golden_vectors plan::tests::on_a_gpu::a_convolutional_network_steps_as_on_the_cpu \
    plan::conformance::on_a_gpu_values_of_16_bits_are_the_cpus plan::conformance::on_a_gpu_operators_agree_with_onnxruntime
}

run_initcheck() {
  check_with initcheck plan::tests::on_a_gpu::golden_vectors
}

# train_one NAME MODEL PRECISION EPOCHS: every epoch becomes a figure. What the runtime tells about libraries goes to a file.
train_one() {
  local status=0
  NPC_LOG=warn,tract_onnx=error,npc=debug,npc_runtime=debug bounded 60 "$bin/npc" train "$2" --data "$data" --device cuda \
    --precision "$3" --epochs "$4" --lr 0.001 --out "$bin/run-$1" 2>"$results/logs/train-$1-debug.txt" || status=$?
  if [ $status -ne 0 ]; then
    echo "training $1: $(ended $status)"
    tail -n 5 "$results/logs/train-$1-debug.txt"
  fi
  figure train "run=$1" "outcome=$(ended $status)"
  [ ! -f "$bin/run-$1/metrics.jsonl" ] || sed "s/^{/{\"kind\": \"epoch\", \"run\": \"$1\", /" "$bin/run-$1/metrics.jsonl" >>"$figures"
  return $status
}

run_train() {
  local data=fashion-mnist-10k precision failed=0
  if [ -n "${NPC_DATA:-}" ]; then
    data=fashion-mnist
  else
    echo "NPC_DATA is not set: an epoch's time is taken from the 10,000 images that are shipped"
  fi
  for precision in f32 tf32 bf16; do
    train_one $precision models/pytorch-train-step/mlp_adamw_unoptimized.onnx $precision 5 || failed=1
  done
  train_one cnn models/cnn-train-step/cnn_adamw.onnx f32 2 || failed=1
  return $failed
}

# One measurement a process, for the same reason as tests.
run_bench() {
  local mlp=models/pytorch-train-step/mlp_adamw_unoptimized.onnx cnn=models/cnn-train-step/cnn_adamw.onnx
  local small=$bin/gpt2_small.onnx what failed=0 status
  for what in lists $mlp $mlp@tf32 $mlp@bf16 $cnn $cnn@tf32 $cnn@bf16 models/pytorch-train-step/transformer_adamw.onnx \
    "$small@bf16@50257" "$small@f32@50257"; do
    status=0
    bounded 120 "$bin/gpu_bench" --json "$figures" "$what" || status=$?
    [ $status -eq 0 ] || { echo "$what: $(ended $status)" && failed=1; }
  done
  return $failed
}

# What follows "torch-" is a part of gpu_torch.py.
run_torch() {
  if [ -z "$has_torch" ]; then
    echo "no python3 here imports torch: nothing was compared with it (NPC_PYTHON names one that does)"
    return 1
  fi
  bounded 600 "$python" benchmarks/gpu_torch.py --json "$figures" "${1#torch-}"
}
