"""Writes cnn_adamw.onnx: a small convolutional network's whole training step in standard ONNX operators.

    python models/cnn-train-step/make.py            write the model (needs onnx, numpy)
    python models/cnn-train-step/make.py --check    also compare loss, gradients and update with JAX (needs jax, onnxruntime)

Network: conv 1→16 3×3, ReLU, max-pool 2, conv 16→32 3×3, ReLU, max-pool 2, linear 1568→10; batch 128; cross-entropy; AdamW.
The gradients are those operators' own: a convolution's data gradient is a ConvTranspose, its weight gradient a Conv in
which batch and channels change places, and non-overlapping max-pooling is undone by MaxUnpool.
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import train_step

BATCH, CLASSES = 128, 10
SHAPES = {
    "conv1.weight": [16, 1, 3, 3],
    "conv1.bias": [16],
    "conv2.weight": [32, 16, 3, 3],
    "conv2.bias": [32],
    "linear.weight": [CLASSES, 32 * 7 * 7],
    "linear.bias": [CLASSES],
}


def network(b):
    """Loss, logits and every parameter's gradient."""
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    zero = b.constant(0.0)
    conv1 = b.op("Conv", "input", "conv1.weight", "conv1.bias", name="conv1", **window)
    relu1 = b.op("Relu", conv1, name="relu1")
    pool1, where1 = b.op("MaxPool", relu1, name="pool1", outputs=["indices"], **pool)
    conv2 = b.op("Conv", pool1, "conv2.weight", "conv2.bias", name="conv2", **window)
    relu2 = b.op("Relu", conv2, name="relu2")
    pool2, where2 = b.op("MaxPool", relu2, name="pool2", outputs=["indices"], **pool)
    flat = b.op("Reshape", pool2, b.ints(BATCH, 32 * 7 * 7), name="flat")
    logits = b.op("Gemm", flat, "linear.weight", "linear.bias", name="logits", transB=1)
    log_probabilities = b.op("LogSoftmax", logits, name="log_probabilities", axis=1)
    one_hot = b.op("OneHot", "labels", b.constant(CLASSES, np.int64), b.constant([0.0, 1.0]), name="one_hot", axis=1)
    picked = b.op("Mul", log_probabilities, one_hot, name="picked")
    total = b.op("ReduceSum", picked, name="total", keepdims=0)
    loss = b.op("Mul", total, b.constant(-1.0 / BATCH), name="loss")

    gradients = {}
    probabilities = b.op("Exp", log_probabilities, name="probabilities")
    error = b.op("Sub", probabilities, one_hot, name="error")
    d_logits = b.op("Mul", error, b.constant(1.0 / BATCH), name="logits.grad")
    gradients["linear.weight"] = b.op("Gemm", d_logits, flat, name="linear.weight.grad", transA=1)
    gradients["linear.bias"] = b.op("ReduceSum", d_logits, b.ints(0), name="linear.bias.grad", keepdims=0)
    d_flat = b.op("MatMul", d_logits, "linear.weight", name="flat.grad")
    d_pool = b.op("Reshape", d_flat, b.ints(BATCH, 32, 7, 7), name="pool2.grad")
    for i, (below, channels, extent, where) in ((2, (pool1, 32, 14, where2)), (1, ("input", 16, 28, where1))):
        shape = b.ints(BATCH, channels, extent, extent)
        d_relu = b.op("MaxUnpool", d_pool, where, shape, name=f"relu{i}.grad", **pool)
        positive = b.op("Greater", f"relu{i}", zero, name=f"relu{i}.positive")
        d_conv = b.op("Where", positive, d_relu, zero, name=f"conv{i}.grad")
        gradients[f"conv{i}.bias"] = b.op("ReduceSum", d_conv, b.ints(0, 2, 3), name=f"conv{i}.bias.grad", keepdims=0)
        turned_below = b.op("Transpose", below, name=f"conv{i}.input.turned", perm=[1, 0, 2, 3])
        turned_error = b.op("Transpose", d_conv, name=f"conv{i}.grad.turned", perm=[1, 0, 2, 3])
        turned = b.op("Conv", turned_below, turned_error, name=f"conv{i}.weight.grad.turned", pads=[1, 1, 1, 1])
        gradients[f"conv{i}.weight"] = b.op("Transpose", turned, name=f"conv{i}.weight.grad", perm=[1, 0, 2, 3])
        if i == 2:
            d_pool = b.op("ConvTranspose", d_conv, "conv2.weight", name="pool1.grad", **window)
    return loss, logits, gradients


def model():
    b = train_step.Builder()
    loss, logits, gradients = network(b)
    inputs = [("input", TensorProto.FLOAT, [BATCH, 1, 28, 28]), ("labels", TensorProto.INT64, [BATCH])]
    outputs = [(loss, TensorProto.FLOAT, []), (logits, TensorProto.FLOAT, [BATCH, CLASSES])]
    return train_step.model(b, "cnn_adamw", SHAPES, gradients, inputs, outputs)


def check(path):
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(7)
    feeds = train_step.random_feeds(SHAPES, random)
    images = random.standard_normal((BATCH, 1, 28, 28)).astype(np.float32)
    labels = random.integers(0, CLASSES, BATCH)

    def loss_of(p):
        def block(x, i):
            x = jax.lax.conv(x, p[f"conv{i}.weight"], (1, 1), "SAME") + p[f"conv{i}.bias"][:, None, None]
            return jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

        x = block(block(images, 1), 2).reshape(BATCH, -1)
        logits = x @ p["linear.weight"].T + p["linear.bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(BATCH), labels])

    loss, gradients = jax.value_and_grad(loss_of)({name: feeds[name] for name in SHAPES})
    feeds |= {"input": images, "labels": labels}
    worst, compared = train_step.worst_deviation(path, SHAPES, feeds, loss, gradients)
    print(f"largest deviation of {compared} outputs from JAX, relative to each tensor's largest element: {worst:.1e}")
    return worst < 1e-4


if __name__ == "__main__":
    target = pathlib.Path(__file__).parent / "cnn_adamw.onnx"
    onnx.save(model(), target)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if check(str(target)) else 1)
