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
from onnx import TensorProto, helper, numpy_helper

BATCH, CLASSES = 128, 10
SHAPES = {
    "conv1.weight": [16, 1, 3, 3],
    "conv1.bias": [16],
    "conv2.weight": [32, 16, 3, 3],
    "conv2.bias": [32],
    "linear.weight": [CLASSES, 32 * 7 * 7],
    "linear.bias": [CLASSES],
}
BETA1, BETA2, EPSILON, DECAY = 0.9, 0.999, 1e-8, 0.01


class Builder:
    def __init__(self):
        self.nodes, self.initializers, self.known = [], [], {}

    def op(self, op_type, *inputs, name, outputs=1, **attributes):
        names = [name] if outputs == 1 else [name, name + ".indices"]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, dtype=np.float32):
        array = np.asarray(value, dtype)
        key = (array.tobytes(), array.shape, str(array.dtype))
        if key not in self.known:
            self.known[key] = f"constant_{len(self.known)}"
            self.initializers.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def ints(self, *values):
        return self.constant(values, np.int64)


def network(b):
    """Loss, logits and every parameter's gradient."""
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    zero = b.constant(0.0)
    conv1 = b.op("Conv", "input", "conv1.weight", "conv1.bias", name="conv1", **window)
    relu1 = b.op("Relu", conv1, name="relu1")
    pool1, where1 = b.op("MaxPool", relu1, name="pool1", outputs=2, **pool)
    conv2 = b.op("Conv", pool1, "conv2.weight", "conv2.bias", name="conv2", **window)
    relu2 = b.op("Relu", conv2, name="relu2")
    pool2, where2 = b.op("MaxPool", relu2, name="pool2", outputs=2, **pool)
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


def adamw(b, name, gradient):
    """The update of one parameter; outputs are called `<input>.next`."""
    scaled = lambda value, by, label: b.op("Mul", value, b.constant(by), name=f"{name}.{label}")
    m = b.op("Add", scaled(f"m.{name}", BETA1, "m.old"), scaled(gradient, 1 - BETA1, "m.new"), name=f"m.{name}.next")
    square = b.op("Mul", gradient, gradient, name=f"{name}.square")
    v = b.op("Add", scaled(f"v.{name}", BETA2, "v.old"), scaled(square, 1 - BETA2, "v.new"), name=f"v.{name}.next")
    m_hat = b.op("Div", m, "correction1", name=f"{name}.m_hat")
    v_hat = b.op("Div", v, "correction2", name=f"{name}.v_hat")
    root = b.op("Sqrt", v_hat, name=f"{name}.root")
    bounded = b.op("Add", root, b.constant(EPSILON), name=f"{name}.bounded")
    ratio = b.op("Div", m_hat, bounded, name=f"{name}.ratio")
    step = b.op("Mul", ratio, "lr", name=f"{name}.step")
    kept = b.op("Mul", name, "keep", name=f"{name}.kept")
    b.op("Sub", kept, step, name=f"{name}.next")


def model():
    b = Builder()
    loss, logits, gradients = network(b)
    one = b.constant(1.0)
    for i, beta in ((1, BETA1), (2, BETA2)):
        power = b.op("Pow", b.constant(beta), "step", name=f"power{i}")
        b.op("Sub", one, power, name=f"correction{i}")
    decay = b.op("Mul", "lr", b.constant(DECAY), name="decay")
    b.op("Sub", one, decay, name="keep")
    for name, gradient in gradients.items():
        adamw(b, name, gradient)
    value = helper.make_tensor_value_info
    f32 = TensorProto.FLOAT
    inputs = [value(name, f32, shape) for name, shape in SHAPES.items()]
    inputs += [value(f"{state}.{name}", f32, shape) for state in "mv" for name, shape in SHAPES.items()]
    inputs += [value("step", f32, []), value("lr", f32, [])]
    inputs += [value("input", f32, [BATCH, 1, 28, 28]), value("labels", TensorProto.INT64, [BATCH])]
    outputs = [value(loss, f32, []), value(logits, f32, [BATCH, CLASSES])]
    outputs += [value(f"{name}.next", f32, shape) for name, shape in SHAPES.items()]
    outputs += [value(f"{state}.{name}.next", f32, shape) for state in "mv" for name, shape in SHAPES.items()]
    graph = helper.make_graph(b.nodes, "cnn_adamw", inputs, outputs, b.initializers)
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="npc models")
    result = onnx.shape_inference.infer_shapes(result, strict_mode=True)
    onnx.checker.check_model(result, full_check=True)
    return result


def check(path):
    import jax
    import jax.numpy as jnp
    import onnxruntime

    random = np.random.default_rng(7)
    parameters = {n: (random.standard_normal(s) * 0.1).astype(np.float32) for n, s in SHAPES.items()}
    first = {n: (random.standard_normal(s) * 0.01).astype(np.float32) for n, s in SHAPES.items()}
    second = {n: np.abs(random.standard_normal(s) * 0.01).astype(np.float32) for n, s in SHAPES.items()}
    images = random.standard_normal((BATCH, 1, 28, 28)).astype(np.float32)
    labels = random.integers(0, CLASSES, BATCH)
    step, rate = np.array(3, np.float32), np.array(0.01, np.float32)

    def loss_of(p):
        def block(x, i):
            x = jax.lax.conv(x, p[f"conv{i}.weight"], (1, 1), "SAME") + p[f"conv{i}.bias"][:, None, None]
            return jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

        x = block(block(images, 1), 2).reshape(BATCH, -1)
        logits = x @ p["linear.weight"].T + p["linear.bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(BATCH), labels])

    want_loss, want = jax.value_and_grad(loss_of)(parameters)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"input": images, "labels": labels, "step": step, "lr": rate} | parameters
    feeds |= {f"m.{n}": x for n, x in first.items()} | {f"v.{n}": x for n, x in second.items()}
    names = [o.name for o in session.get_outputs()]
    got = dict(zip(names, session.run(names, feeds)))
    worst = abs(got["loss"] - want_loss) / abs(want_loss)
    for name, g in want.items():
        g = np.asarray(g, np.float64)
        m = BETA1 * first[name] + (1 - BETA1) * g
        v = BETA2 * second[name] + (1 - BETA2) * g * g
        update = (m / (1 - BETA1**step)) / (np.sqrt(v / (1 - BETA2**step)) + EPSILON)
        expected = parameters[name] * (1 - rate * DECAY) - rate * update
        for key, reference in ((f"{name}.next", expected), (f"m.{name}.next", m), (f"v.{name}.next", v)):
            worst = max(worst, np.abs(got[key] - reference).max() / np.abs(reference).max())
    print(f"largest deviation from JAX, relative to each tensor's largest element: {worst:.1e}")
    return worst < 1e-4


if __name__ == "__main__":
    target = pathlib.Path(__file__).parent / "cnn_adamw.onnx"
    onnx.save(model(), target)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if check(str(target)) else 1)
