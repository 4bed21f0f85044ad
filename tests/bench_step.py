"""Times training steps of npc beside ONNX Runtime running the original graph, one thread each.

    cargo build --release --example time_step --workspace
    python3 tests/bench_step.py [MODEL.onnx ...]

The two take turns, so that a noisy machine hurts both alike; the ratio printed is the median of the rounds' ratios.
"""

import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = ROOT / "models" / "pytorch-train-step"
BINARY = ROOT / "target" / "release" / "examples" / "time_step"
ROUNDS = 15


def feed(name, kind, shape):
    """The formula of `fill` in runtime/examples/time_step.rs."""
    i = np.arange(int(np.prod(shape)))
    if kind in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return (i % 10).astype(np.int64 if kind == onnx.TensorProto.INT64 else np.int32).reshape(shape)
    if name in ("step", "lr"):
        return np.full(shape, 1.0 if name == "step" else 1e-3, np.float32)
    values = 0.05 * np.sin(0.37 * i)
    return (np.abs(values) + 0.001 if "var" in name or name.startswith("v.") else values).astype(np.float32).reshape(shape)


def reference(path):
    """A function that runs n steps of the original graph and returns the seconds a step."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # With buffers bound on both sides no call pays for allocation or for copies through numpy.
    binding = session.io_binding()
    kept = []
    for value in onnx.load(path).graph.input:
        kind = value.type.tensor_type
        array = feed(value.name, kind.elem_type, [d.dim_value for d in kind.shape.dim])
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_input(value.name, kept[-1])
    for output, array in zip(session.get_outputs(), session.run(None, {v.name: k.numpy() for v, k in zip(onnx.load(path).graph.input, kept)})):
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
        binding.bind_ortvalue_output(output.name, kept[-1])

    def steps(n, kept=kept):
        start = time.perf_counter()
        for _ in range(n):
            session.run_with_iobinding(binding)
        return (time.perf_counter() - start) / n

    return steps


def ours(path, form):
    """The same for npc."""
    process = subprocess.Popen([BINARY, path, form, "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline().strip() != "ready":
        sys.exit(f"{BINARY} could not prepare {path}")

    def steps(n):
        print(n, file=process.stdin, flush=True)
        return float(process.stdout.readline())

    return steps


def main():
    paths = [pathlib.Path(p) for p in sys.argv[1:]] or [STEPS / "mlp_adamw_unoptimized.onnx", STEPS / "transformer_adamw.onnx"]
    print(f"{'model':32} {'npc runs':>13} {'ONNX Runtime':>13} {'npc':>10} {'ratio':>6}   (lower than 1: npc is faster)")
    for path in paths:
        theirs = reference(path)
        for form in ("neuroplastic", "keep", "original"):
            mine = ours(path, form)
            n = max(3, int(0.15 / max(theirs(3), mine(3))))
            rounds = [(theirs(n), mine(n)) for _ in range(ROUNDS)]
            a, b = (statistics.median(r[i] for r in rounds) for i in (0, 1))
            ratio = statistics.median(m / t for t, m in rounds)
            print(f"{path.stem:32} {form:>13} {a * 1e3:10.3f} ms {b * 1e3:7.3f} ms {ratio:6.2f}")


if __name__ == "__main__":
    main()
