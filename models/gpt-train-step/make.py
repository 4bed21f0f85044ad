"""Writes the whole training step of a GPT-2-like language model in standard ONNX operators.

    python models/gpt-train-step/make.py                 write the tiny gpt_adamw.onnx beside this file (needs onnx, numpy)
    python models/gpt-train-step/make.py --check         compare its loss, gradients and update with PyTorch (needs torch, onnxruntime)
    python models/gpt-train-step/make.py --small OUT     write GPT-2 small: 12 layers, width 768, 12 heads, vocabulary 50257,
                                                         context 1024, batch 8
    --layers --width --heads --context --vocabulary --batch --untied change either of the two

Network (A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019): token and position embeddings, blocks of
layer normalisation, causal attention, layer normalisation and GELU (tanh form), each part added to what went in, a last layer
normalisation, and the token embeddings again as the output layer; cross-entropy over all tokens; AdamW. No dropout. Parameters
are inputs without values, named as in GPT-2's own files, weights as (in, out): the file stays small whatever the sizes are.
"""

import argparse
import dataclasses
import math
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import train_step

NORM_EPSILON = 1e-5
CUBIC = 0.044715


@dataclasses.dataclass
class Sizes:
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    batch: int
    tied: bool = True

    def shapes(self):
        """Every parameter's shape, in GPT-2's order."""
        c = self.width
        shapes = {"wte": [self.vocabulary, c], "wpe": [self.context, c]}
        for i in range(self.layers):
            for name, shape in (("ln_1", [c]), ("attn.c_attn", [c, 3 * c]), ("attn.c_proj", [c, c]), ("ln_2", [c])):
                shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
            for name, shape in (("mlp.c_fc", [c, 4 * c]), ("mlp.c_proj", [4 * c, c])):
                shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
        shapes |= {"ln_f.weight": [c], "ln_f.bias": [c]}
        return shapes if self.tied else shapes | {"lm_head": [self.vocabulary, c]}


TINY = Sizes(layers=2, width=32, heads=4, context=16, vocabulary=64, batch=4)
SMALL = Sizes(layers=12, width=768, heads=12, context=1024, vocabulary=50257, batch=8)


class Network(train_step.Builder):
    """The forward pass; `undo` has the functions that take the gradient back through it, last part first."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.gradients = sizes, {}
        s = sizes
        columns, rows = np.arange(s.context).reshape(1, -1), np.arange(s.context).reshape(-1, 1)
        earlier = (self.constant(columns, np.int64), self.constant(rows, np.int64))
        self.allowed = self.op("LessOrEqual", *earlier, name="allowed")
        self.heads = self.ints(s.batch, s.context, s.heads, s.width // s.heads)
        self.flat = self.ints(s.batch * s.context, s.width)

    def linear(self, x, name):
        """x·W + b, and the way back: the gradient of x from that of the result."""
        y = self.op("Gemm", x, f"{name}.weight", f"{name}.bias", name=name)

        def back(dy):
            self.gradients[f"{name}.weight"] = self.op("Gemm", x, dy, name=f"{name}.weight.grad", transA=1)
            self.gradients[f"{name}.bias"] = self.op("ReduceSum", dy, self.ints(0), name=f"{name}.bias.grad", keepdims=0)
            return self.op("Gemm", dy, f"{name}.weight", name=f"{name}.input.grad", transB=1)

        return y, back

    def norm(self, x, name):
        """Layer normalisation. Back, with x̂ the normalised row and g = dy·scale: (g − mean(g) − x̂·mean(g·x̂)) / deviation."""
        scale = f"{name}.weight"
        results = ["mean", "inverse"]
        y, mean, inverse = self.op(
            "LayerNormalization", x, scale, f"{name}.bias", name=name, outputs=results, axis=-1, epsilon=NORM_EPSILON
        )

        def back(dy):
            at = lambda op_type, *inputs, label, **a: self.op(op_type, *inputs, name=f"{name}.{label}", **a)
            row = lambda value, label: at("ReduceMean", value, label=label, axes=[-1], keepdims=1)
            normal = at("Mul", at("Sub", x, mean, label="centred"), inverse, label="normal")
            product = at("Mul", dy, normal, label="product")
            self.gradients[scale] = at("ReduceSum", product, self.ints(0), label="weight.grad", keepdims=0)
            self.gradients[f"{name}.bias"] = at("ReduceSum", dy, self.ints(0), label="bias.grad", keepdims=0)
            g = at("Mul", dy, scale, label="scaled")
            along = row(at("Mul", g, normal, label="aligned"), "aligned.mean")
            rest = at("Sub", g, row(g, "scaled.mean"), label="level")
            rest = at("Sub", rest, at("Mul", normal, along, label="along"), label="orthogonal")
            return at("Mul", rest, inverse, label="input.grad")

        return y, back

    def attention(self, x, name):
        s = self.sizes
        at = lambda op_type, *inputs, label, **a: self.op(op_type, *inputs, name=f"{name}.{label}", **a)
        joined, back_joined = self.linear(x, f"{name}.c_attn")
        cut = [self.ints(i * s.width) for i in range(4)]

        def head(i, label):
            part = at("Slice", joined, cut[i], cut[i + 1], self.ints(1), label=f"{label}.part")
            part = at("Reshape", part, self.heads, label=f"{label}.heads")
            return at("Transpose", part, label=label, perm=[0, 2, 1, 3])

        def flat(value, label):
            value = at("Transpose", value, label=f"{label}.turned", perm=[0, 2, 1, 3])
            return at("Reshape", value, self.flat, label=label)

        turned = lambda value, label: at("Transpose", value, label=label, perm=[0, 1, 3, 2])
        q, k, v = (head(i, label) for i, label in enumerate(("q", "k", "v")))
        scale = self.constant(1.0 / math.sqrt(s.width // s.heads))
        scores = at("Mul", at("MatMul", q, turned(k, "k.turned"), label="scores"), scale, label="scaled")
        masked = at("Where", self.allowed, scores, self.constant(-np.inf), label="masked")
        p = at("Softmax", masked, label="p", axis=-1)
        mixed = flat(at("MatMul", p, v, label="mixed"), "mixed.flat")
        y, back_y = self.linear(mixed, f"{name}.c_proj")

        def back(dy):
            d_mixed = at("Reshape", back_y(dy), self.heads, label="mixed.heads.grad")
            d_mixed = at("Transpose", d_mixed, label="mixed.grad", perm=[0, 2, 1, 3])
            d_v = at("MatMul", turned(p, "p.turned"), d_mixed, label="v.grad")
            d_p = at("MatMul", d_mixed, turned(v, "v.turned"), label="p.grad")
            weighted = at("Mul", p, d_p, label="weighted")
            total = at("ReduceSum", weighted, self.ints(-1), label="weighted.total", keepdims=1)
            d_masked = at("Mul", p, at("Sub", d_p, total, label="p.level"), label="masked.grad")
            # Where the mask forbids, p is 0, and so is this.
            d_scores = at("Mul", d_masked, scale, label="scores.grad")
            d_q = at("MatMul", d_scores, k, label="q.grad")
            d_k = at("MatMul", turned(d_scores, "scores.grad.turned"), q, label="k.grad")
            parts = [flat(d, f"{label}.flat.grad") for d, label in ((d_q, "q"), (d_k, "k"), (d_v, "v"))]
            return back_joined(at("Concat", *parts, label="c_attn.grad", axis=1))

        return y, back

    def mlp(self, x, name):
        """GELU(z) = z/2 · (1 + tanh u), u = √(2/π)(z + 0.044715 z³) (D. Hendrycks, K. Gimpel, 2016)."""
        at = lambda op_type, *inputs, label, **a: self.op(op_type, *inputs, name=f"{name}.{label}", **a)
        z, back_z = self.linear(x, f"{name}.c_fc")
        one, half, root = self.constant(1.0), self.constant(0.5), self.constant(math.sqrt(2.0 / math.pi))
        square = at("Mul", z, z, label="square")
        cubic = at("Mul", at("Mul", square, z, label="cube"), self.constant(CUBIC), label="cubic")
        tanh = at("Tanh", at("Mul", at("Add", z, cubic, label="sum"), root, label="u"), label="tanh")
        share = at("Mul", at("Add", tanh, one, label="raised"), half, label="share")
        gelu = at("Mul", z, share, label="gelu")
        y, back_y = self.linear(gelu, f"{name}.c_proj")

        def back(dy):
            # share + z/2 · (1 − tanh²) · √(2/π)(1 + 3·0.044715 z²)
            slope = at("Sub", one, at("Mul", tanh, tanh, label="tanh.square"), label="tanh.slope")
            inner = at("Add", at("Mul", square, self.constant(3 * CUBIC), label="u.cubic"), one, label="u.raised")
            inner = at("Mul", inner, self.constant(math.sqrt(2.0 / math.pi) / 2), label="u.slope")
            change = at("Mul", at("Mul", z, slope, label="moved"), inner, label="change")
            slope = at("Add", share, change, label="gelu.slope")
            return back_z(at("Mul", back_y(dy), slope, label="z.grad"))

        return y, back

    def run(self):
        """Loss; afterwards `gradients` is complete."""
        s = self.sizes
        tokens, targets = (self.op("Reshape", v, self.ints(-1), name=f"{v}.flat") for v in ("tokens", "targets"))
        picked = self.op("Gather", "wte", tokens, name="picked", axis=0)
        by_place = self.ints(s.batch, s.context, s.width)
        picked = self.op("Reshape", picked, by_place, name="picked.placed")
        x = self.op("Reshape", self.op("Add", picked, "wpe", name="placed"), self.flat, name="embedded")
        undo = []
        for i in range(s.layers):
            for label, norm, part in (("attn", "ln_1", self.attention), ("mlp", "ln_2", self.mlp)):
                y, back_norm = self.norm(x, f"h.{i}.{norm}")
                y, back_part = part(y, f"h.{i}.{label}")
                x = self.op("Add", x, y, name=f"h.{i}.{label}.out")
                undo.append((f"h.{i}.{label}.in.grad", back_norm, back_part))
        last, back_last = self.norm(x, "ln_f")
        head = "wte" if s.tied else "lm_head"
        logits = self.op("Gemm", last, head, name="logits", transB=1)
        loss, log_p = self.op("SoftmaxCrossEntropyLoss", logits, targets, name="loss", outputs=["log_p"], reduction="mean")

        classes = self.constant(s.vocabulary, np.int64)
        one_hot = self.op("OneHot", targets, classes, self.constant([0.0, 1.0]), name="one_hot", axis=1)
        error = self.op("Sub", self.op("Exp", log_p, name="probabilities"), one_hot, name="error")
        d_logits = self.op("Mul", error, self.constant(1.0 / (s.batch * s.context)), name="logits.grad")
        d_head = self.op("Gemm", d_logits, last, name="head.grad", transA=1)
        dx = back_last(self.op("Gemm", d_logits, head, name="ln_f.grad"))
        for name, back_norm, back_part in reversed(undo):
            dx = self.op("Add", dx, back_norm(back_part(dx)), name=name)
        placed = self.op("Reshape", dx, by_place, name="placed.grad")
        self.gradients["wpe"] = self.op("ReduceSum", placed, self.ints(0), name="wpe.grad", keepdims=0)
        if s.tied:
            before = d_head
        else:
            self.gradients["lm_head"] = d_head
            shape = self.ints(s.vocabulary, s.width)
            before = self.op("ConstantOfShape", shape, name="nothing")
        rows = self.op("Reshape", tokens, self.ints(-1, 1), name="tokens.rows")
        self.gradients["wte"] = self.op("ScatterND", before, rows, dx, name="wte.grad", reduction="add")
        return loss


def model(sizes):
    network = Network(sizes)
    loss = network.run()
    shapes = sizes.shapes()
    gradients = {name: network.gradients[name] for name in shapes}
    batch = [sizes.batch, sizes.context]
    inputs = [("tokens", TensorProto.INT64, batch), ("targets", TensorProto.INT64, batch)]
    return train_step.model(network, "gpt_adamw", shapes, gradients, inputs, [(loss, TensorProto.FLOAT, [])])


def check(path, sizes):
    import torch
    import torch.nn.functional as F

    random = np.random.default_rng(7)
    feeds = train_step.random_feeds(sizes.shapes(), random)
    for name in ("tokens", "targets"):
        feeds[name] = random.integers(0, sizes.vocabulary, (sizes.batch, sizes.context))
    p = {name: torch.tensor(feeds[name], dtype=torch.float64, requires_grad=True) for name in sizes.shapes()}
    linear = lambda x, name: x @ p[f"{name}.weight"] + p[f"{name}.bias"]
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], NORM_EPSILON)
    x = p["wte"][torch.tensor(feeds["tokens"])] + p["wpe"]
    for i in range(sizes.layers):
        q, k, v = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(sizes.width, -1)
        q, k, v = (t.unflatten(-1, (sizes.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"h.{i}.attn.c_proj")
        z = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        x = x + linear(F.gelu(z, approximate="tanh"), f"h.{i}.mlp.c_proj")
    logits = norm(x, "ln_f") @ p["wte" if sizes.tied else "lm_head"].T
    loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(feeds["targets"]).flatten())
    loss.backward()
    gradients = {name: t.grad.numpy() for name, t in p.items()}
    worst, compared = train_step.worst_deviation(path, sizes.shapes(), feeds, loss.item(), gradients)
    print(f"largest deviation of {compared} outputs from PyTorch, relative to each tensor's largest element: {worst:.1e}")
    return worst < 1e-4


def main():
    parser = argparse.ArgumentParser(description="Writes a GPT-2-like training step.")
    parser.add_argument("--small", metavar="OUT", help="write GPT-2 small to this file")
    parser.add_argument("--out", help="write the tiny model to this file")
    parser.add_argument("--check", action="store_true", help="compare with PyTorch")
    parser.add_argument("--untied", action="store_true", help="an output layer of its own")
    fields = [f.name for f in dataclasses.fields(Sizes) if f.name != "tied"]
    for field in fields:
        parser.add_argument(f"--{field}", type=int)
    given = parser.parse_args()
    start = SMALL if given.small else TINY
    changed = {f: getattr(given, f) for f in fields if getattr(given, f) is not None}
    sizes = dataclasses.replace(start, **changed, tied=not given.untied)
    target = given.small or given.out or pathlib.Path(__file__).parent / "gpt_adamw.onnx"
    onnx.save(model(sizes), target)
    return 0 if not given.check or check(target, sizes) else 1


if __name__ == "__main__":
    sys.exit(main())
