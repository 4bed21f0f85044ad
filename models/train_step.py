"""What the scripts that write training steps share: a builder of ONNX graphs, and AdamW in primitive operators."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BETA1, BETA2, EPSILON, DECAY = 0.9, 0.999, 1e-8, 0.01


class Builder:
    """Collects nodes; every node's first output has the node's name."""

    def __init__(self):
        self.nodes, self.initializers, self.known = [], [], {}

    def op(self, op_type, *inputs, name, outputs=(), **attributes):
        """Adds a node; with `outputs` (suffixes) it has further outputs, and all their names come back."""
        names = [name] + [f"{name}.{suffix}" for suffix in outputs]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name, **attributes))
        return names if outputs else name

    def constant(self, value, dtype=np.float32):
        array = np.asarray(value, dtype)
        key = (array.tobytes(), array.shape, str(array.dtype))
        if key not in self.known:
            self.known[key] = f"constant_{len(self.known)}"
            self.initializers.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def ints(self, *values):
        return self.constant(values, np.int64)


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


def model(b, name, shapes, gradients, inputs, outputs):
    """The step with every parameter's update; `inputs` and `outputs` are (name, element type, shape) of the rest."""
    one = b.constant(1.0)
    for i, beta in ((1, BETA1), (2, BETA2)):
        power = b.op("Pow", b.constant(beta), "step", name=f"power{i}")
        b.op("Sub", one, power, name=f"correction{i}")
    decay = b.op("Mul", "lr", b.constant(DECAY), name="decay")
    b.op("Sub", one, decay, name="keep")
    for parameter, gradient in gradients.items():
        adamw(b, parameter, gradient)
    value = helper.make_tensor_value_info
    f32 = TensorProto.FLOAT
    states = [(f"{state}.{parameter}", shape) for state in "mv" for parameter, shape in shapes.items()]
    fed = [value(parameter, f32, shape) for parameter, shape in [*shapes.items(), *states]]
    fed += [value("step", f32, []), value("lr", f32, [])] + [value(*given) for given in inputs]
    made = [value(*given) for given in outputs]
    made += [value(f"{parameter}.next", f32, shape) for parameter, shape in [*shapes.items(), *states]]
    graph = helper.make_graph(b.nodes, name, fed, made, b.initializers)
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="npc models")
    result = onnx.shape_inference.infer_shapes(result, strict_mode=True)
    onnx.checker.check_model(result, full_check=True)
    return result


def worst_deviation(path, shapes, feeds, loss, gradients):
    """Steps the model in onnxruntime; the largest deviation of the loss and of every output from what follows from the loss
    and the gradients (float64) of a reference, relative to each tensor's largest element."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    got = dict(zip(names, session.run(names, feeds)))
    step, rate = float(feeds["step"]), float(feeds["lr"])
    worst, compared = abs(got["loss"] - loss) / abs(loss), 1
    for name in shapes:
        g = np.asarray(gradients[name], np.float64)
        m = BETA1 * feeds[f"m.{name}"] + (1 - BETA1) * g
        v = BETA2 * feeds[f"v.{name}"] + (1 - BETA2) * g * g
        update = (m / (1 - BETA1**step)) / (np.sqrt(v / (1 - BETA2**step)) + EPSILON)
        expected = feeds[name] * (1 - rate * DECAY) - rate * update
        for key, reference in ((f"{name}.next", expected), (f"m.{name}.next", m), (f"v.{name}.next", v)):
            worst = max(worst, np.abs(got[key] - reference).max() / np.abs(reference).max())
            compared += 1
    return worst, compared


def random_feeds(shapes, random):
    """Parameters, moments, step and rate."""
    feeds = {"step": np.array(3, np.float32), "lr": np.array(0.01, np.float32)}
    feeds |= {n: (random.standard_normal(s) * 0.1).astype(np.float32) for n, s in shapes.items()}
    feeds |= {f"m.{n}": (random.standard_normal(s) * 0.01).astype(np.float32) for n, s in shapes.items()}
    feeds |= {f"v.{n}": np.abs(random.standard_normal(s) * 0.01).astype(np.float32) for n, s in shapes.items()}
    return feeds
