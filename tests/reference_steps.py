"""Writes tests/data/reference_steps.json: what ONNX Runtime computes for one step of every shipped training step.

Inputs follow a formula that the Rust test repeats, so only digests of the outputs are kept. Run from the repository's root.
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime

onnxruntime.set_default_logger_severity(3)


def feed(index, name, kind, shape):
    count = int(np.prod(shape))
    i = np.arange(count)
    if kind in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return (i % 10).astype(np.int64 if kind == onnx.TensorProto.INT64 else np.int32).reshape(shape)
    if name == "step":
        return np.ones(shape, np.float32)
    if name == "lr":
        return np.full(shape, 0.01, np.float32)
    values = 0.05 * np.sin(0.37 * i + index)
    # Non-negative everywhere a second moment may stand; a gradient does not care.
    return (np.abs(values) + 0.001 if "var" in name or name.startswith("v.") else values).astype(np.float32).reshape(shape)


result = {}
for folder in ("pytorch-train-step", "jax-train-step", "gpt-train-step"):
    for path in sorted(pathlib.Path("models", folder).glob("*.onnx")):
        model = onnx.load(path)
        feeds = {}
        for index, value in enumerate(model.graph.input):
            kind = value.type.tensor_type
            feeds[value.name] = feed(index, value.name, kind.elem_type, [d.dim_value for d in kind.shape.dim])
        if path.stem == "mlp_optax_adam":
            for index in (10, 11, 12, 13, 14):  # optax's second moments (and its int32 counter) follow the first ones
                name = model.graph.input[index].name
                if feeds[name].dtype == np.float32:
                    feeds[name] = np.abs(feeds[name]) + np.float32(0.001)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = session.run(None, feeds)
        digest = {}
        for spec, array in zip(session.get_outputs(), outputs):
            flat = np.asarray(array, np.float64).ravel()
            finite = flat[np.isfinite(flat)]
            stride = max(1, flat.size // 7)
            digest[spec.name] = {
                "mean": float(finite.mean()) if finite.size else 0.0,
                "rms": float(np.sqrt((finite**2).mean())) if finite.size else 0.0,
                "finite": int(finite.size),
                "sample": [float(x) if np.isfinite(x) else None for x in flat[::stride]],
            }
        result[f"{folder}/{path.name}"] = digest
pathlib.Path("tests/data/reference_steps.json").write_text(json.dumps(result, indent=None, separators=(",", ":")) + "\n")
