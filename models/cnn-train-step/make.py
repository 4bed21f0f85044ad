"""Writes cnn_adamw.onnx: a small convolutional network's whole training step in standard ONNX operators.

    python models/cnn-train-step/make.py            write the model (needs onnx, numpy)
    python models/cnn-train-step/make.py --check    also compare loss, gradients and update with JAX (needs jax, onnxruntime)
    python models/cnn-train-step/make.py --norm     cnn_norm_adamw.onnx instead: batch normalisation before each ReLU

Network: conv 1→16 3×3, ReLU, max-pool 2, conv 16→32 3×3, ReLU, max-pool 2, linear 1568→10; batch 128; cross-entropy; AdamW.
With --norm the batch is 16, and batch normalisation takes the convolutions' biases' place; its running mean and variance are state of the step.
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

CLASSES = 10
SHAPES = {
    "conv1.weight": [16, 1, 3, 3],
    "conv1.bias": [16],
    "conv2.weight": [32, 16, 3, 3],
    "conv2.bias": [32],
    "linear.weight": [CLASSES, 32 * 7 * 7],
    "linear.bias": [CLASSES],
}


# S. Ioffe, C. Szegedy, "Batch Normalization", 2015.
NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.9
CHANNELS = {1: 16, 2: 32}
NORM_SHAPES = {n: s for n, s in SHAPES.items() if n not in ("conv1.bias", "conv2.bias")} | {
    f"norm{i}.{part}": [c] for i, c in CHANNELS.items() for part in ("weight", "bias")
}
RUNNING = {f"norm{i}.{part}": [c] for i, c in CHANNELS.items() for part in ("mean", "variance")}


def norm(b, x, i):
    """Batch normalisation in training, and the way back: the gradient of x from that of the result, by
    scale / deviation · (dy − mean(dy) − x̂ · mean(dy · x̂))."""
    at = lambda op_type, *inputs, label, **a: b.op(op_type, *inputs, name=f"norm{i}.{label}", **a)
    inputs = [f"norm{i}.{part}" for part in ("weight", "bias", "mean", "variance")]
    how = {"epsilon": NORM_EPSILON, "momentum": NORM_MOMENTUM, "training_mode": 1}
    b.nodes.append(
        onnx.helper.make_node(
            "BatchNormalization",
            [x, *inputs],
            [f"norm{i}", f"norm{i}.mean.next", f"norm{i}.variance.next"],
            name=f"norm{i}",
            **how,
        )
    )

    def back(dy, gradients):
        axes, wide = b.ints(0, 2, 3), b.ints(1, CHANNELS[i], 1, 1)
        average = lambda value, label: at("ReduceMean", value, label=label, axes=[0, 2, 3], keepdims=1)
        centred = at("Sub", x, average(x, "average"), label="centred")
        spread = average(at("Mul", centred, centred, label="square"), "spread")
        deviation = at("Sqrt", at("Add", spread, b.constant(NORM_EPSILON), label="raised"), label="deviation")
        normal = at("Div", centred, deviation, label="normal")
        product = at("Mul", dy, normal, label="product")
        gradients[f"norm{i}.weight"] = at("ReduceSum", product, axes, label="weight.grad", keepdims=0)
        gradients[f"norm{i}.bias"] = at("ReduceSum", dy, axes, label="bias.grad", keepdims=0)
        along = at("Mul", normal, average(product, "aligned"), label="along")
        level = at("Sub", at("Sub", dy, average(dy, "dy.average"), label="level"), along, label="orthogonal")
        scale = at("Div", at("Reshape", f"norm{i}.weight", wide, label="scale"), deviation, label="factor")
        return at("Mul", level, scale, label="input.grad")

    return f"norm{i}", back


def batch_of(with_norm):
    return 16 if with_norm else 128


def network(b, with_norm):
    """Loss, logits and every parameter's gradient."""
    batch = batch_of(with_norm)
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    zero = b.constant(0.0)
    backs = {}

    def convolve(x, i):
        if not with_norm:
            return b.op("Conv", x, f"conv{i}.weight", f"conv{i}.bias", name=f"conv{i}", **window)
        y, backs[i] = norm(b, b.op("Conv", x, f"conv{i}.weight", name=f"conv{i}", **window), i)
        return y

    conv1 = convolve("input", 1)
    relu1 = b.op("Relu", conv1, name="relu1")
    pool1, where1 = b.op("MaxPool", relu1, name="pool1", outputs=["indices"], **pool)
    conv2 = convolve(pool1, 2)
    relu2 = b.op("Relu", conv2, name="relu2")
    pool2, where2 = b.op("MaxPool", relu2, name="pool2", outputs=["indices"], **pool)
    flat = b.op("Reshape", pool2, b.ints(batch, 32 * 7 * 7), name="flat")
    logits = b.op("Gemm", flat, "linear.weight", "linear.bias", name="logits", transB=1)
    log_probabilities = b.op("LogSoftmax", logits, name="log_probabilities", axis=1)
    one_hot = b.op("OneHot", "labels", b.constant(CLASSES, np.int64), b.constant([0.0, 1.0]), name="one_hot", axis=1)
    picked = b.op("Mul", log_probabilities, one_hot, name="picked")
    total = b.op("ReduceSum", picked, name="total", keepdims=0)
    loss = b.op("Mul", total, b.constant(-1.0 / batch), name="loss")

    gradients = {}
    probabilities = b.op("Exp", log_probabilities, name="probabilities")
    error = b.op("Sub", probabilities, one_hot, name="error")
    d_logits = b.op("Mul", error, b.constant(1.0 / batch), name="logits.grad")
    gradients["linear.weight"] = b.op("Gemm", d_logits, flat, name="linear.weight.grad", transA=1)
    gradients["linear.bias"] = b.op("ReduceSum", d_logits, b.ints(0), name="linear.bias.grad", keepdims=0)
    d_flat = b.op("MatMul", d_logits, "linear.weight", name="flat.grad")
    d_pool = b.op("Reshape", d_flat, b.ints(batch, 32, 7, 7), name="pool2.grad")
    for i, (below, channels, extent, where) in ((2, (pool1, 32, 14, where2)), (1, ("input", 16, 28, where1))):
        shape = b.ints(batch, channels, extent, extent)
        d_relu = b.op("MaxUnpool", d_pool, where, shape, name=f"relu{i}.grad", **pool)
        positive = b.op("Greater", f"relu{i}", zero, name=f"relu{i}.positive")
        if with_norm:
            d_norm = b.op("Where", positive, d_relu, zero, name=f"norm{i}.grad")
            d_conv = backs[i](d_norm, gradients)
        else:
            d_conv = b.op("Where", positive, d_relu, zero, name=f"conv{i}.grad")
            gradients[f"conv{i}.bias"] = b.op("ReduceSum", d_conv, b.ints(0, 2, 3), name=f"conv{i}.bias.grad", keepdims=0)
        turned_below = b.op("Transpose", below, name=f"conv{i}.input.turned", perm=[1, 0, 2, 3])
        turned_error = b.op("Transpose", d_conv, name=f"conv{i}.grad.turned", perm=[1, 0, 2, 3])
        turned = b.op("Conv", turned_below, turned_error, name=f"conv{i}.weight.grad.turned", pads=[1, 1, 1, 1])
        gradients[f"conv{i}.weight"] = b.op("Transpose", turned, name=f"conv{i}.weight.grad", perm=[1, 0, 2, 3])
        if i == 2:
            d_pool = b.op("ConvTranspose", d_conv, "conv2.weight", name="pool1.grad", **window)
    return loss, logits, gradients


def model(with_norm):
    b, batch = train_step.Builder(), batch_of(with_norm)
    loss, logits, gradients = network(b, with_norm)
    f32 = TensorProto.FLOAT
    inputs = [("input", f32, [batch, 1, 28, 28]), ("labels", TensorProto.INT64, [batch])]
    outputs = [(loss, f32, []), (logits, f32, [batch, CLASSES])]
    if not with_norm:
        return train_step.model(b, "cnn_adamw", SHAPES, gradients, inputs, outputs)
    inputs += [(name, f32, shape) for name, shape in RUNNING.items()]
    outputs += [(f"{name}.next", f32, shape) for name, shape in RUNNING.items()]
    return train_step.model(b, "cnn_norm_adamw", NORM_SHAPES, gradients, inputs, outputs)


def check(path, with_norm):
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(7)
    batch, shapes = batch_of(with_norm), NORM_SHAPES if with_norm else SHAPES
    feeds = train_step.random_feeds(shapes, random)
    images = random.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = random.integers(0, CLASSES, batch)

    def loss_of(p):
        wide = lambda name: p[name][:, None, None]

        def block(x, i):
            x = jax.lax.conv(x, p[f"conv{i}.weight"], (1, 1), "SAME")
            if with_norm:
                mean, variance = (f(x, axis=(0, 2, 3), keepdims=True) for f in (jnp.mean, jnp.var))
                normal = (x - mean) / jnp.sqrt(variance + NORM_EPSILON)
                x = normal * wide(f"norm{i}.weight") + wide(f"norm{i}.bias")
            else:
                x = x + wide(f"conv{i}.bias")
            return jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

        x = block(block(images, 1), 2).reshape(batch, -1)
        logits = x @ p["linear.weight"].T + p["linear.bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(batch), labels])

    loss, gradients = jax.value_and_grad(loss_of)({name: feeds[name] for name in shapes})
    feeds |= {"input": images, "labels": labels}
    if with_norm:
        feeds |= {name: np.abs(random.standard_normal(shape)).astype(np.float32) for name, shape in RUNNING.items()}
    worst, compared = train_step.worst_deviation(path, shapes, feeds, loss, gradients)
    print(f"largest deviation of {compared} outputs from JAX, relative to each tensor's largest element: {worst:.1e}")
    return worst < 1e-4


if __name__ == "__main__":
    with_norm = "--norm" in sys.argv[1:]
    target = pathlib.Path(__file__).parent / ("cnn_norm_adamw.onnx" if with_norm else "cnn_adamw.onnx")
    onnx.save(model(with_norm), target)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if check(str(target), with_norm) else 1)
