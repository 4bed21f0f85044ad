"""What PyTorch takes on the first GPU for what `gpu_bench` times.

    python3 benchmarks/gpu_torch.py [--json FILE] [lists] [restated] [steps] [gpt]      all by default; needs torch with CUDA

lists     AdamW(fused=True) on parameter lists
restated  the NeuroPlastic method in eager PyTorch on the same lists: our restatement (neuroplastic_torch.py), not its authors' code
steps     whole MLP and CNN steps, batch 128, float32
gpt       GPT-2 small's whole step, batch 8 of 1024 tokens, no dropout, under bfloat16 autocast and in float32

Milliseconds, the least of five rounds. A whole step is eager, and compiled in the modes "default", "reduce-overhead" (CUDA graphs)
and "max-autotune"; the optimizer is fused AdamW, and the CUDA peers get the same float32 parameters as ours. FILE gets a JSON object
for every figure, which gpu_report.py reads.
"""

import argparse
import contextlib
import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import neuroplastic_torch

PARTS = ("lists", "restated", "steps", "gpt")
MODES = ("eager", "default", "reduce-overhead", "max-autotune")


class Results:
    def __init__(self, path):
        self.path = path

    def add(self, **figure):
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(figure) + "\n")


def timed(run, seconds=0.5):
    """Milliseconds of one run."""

    def once(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    once(3)
    count = int(min(max(seconds / once(2), 3), 1000))
    return min(once(count) for _ in range(5)) * 1e3


def resnet18():
    """Sizes of ResNet-18's parameters, in its order."""
    sizes = [9408, 64, 64] + [36864, 64, 64] * 4
    inner = 64
    for outer in (128, 256, 512):
        sizes += [outer * inner * 9, outer, outer, outer * outer * 9, outer, outer, outer * inner, outer, outer]
        sizes += [outer * outer * 9, outer, outer] * 2
        inner = outer
    return sizes + [512_000, 1000]


def gpt2_small():
    block = [768, 768, 1_769_472, 2304, 589_824, 768, 768, 768, 2_359_296, 3072, 2_359_296, 768]
    return [38_597_376, 786_432] + block * 12 + [768, 768]


LISTS = {
    "200 x 50,000": [50_000] * 200,
    "ResNet-18": resnet18(),
    "GPT-2 small": gpt2_small(),
    "1 x 100,000,000": [100_000_000],
}


def tensors(sizes, device):
    result = [torch.full((n,), 0.1, device=device, requires_grad=True) for n in sizes]
    for t in result:
        t.grad = torch.full_like(t, 0.01)
    return result


def time_list(kind, label, name, make, results):
    sizes = LISTS[name]
    optimizer = make(tensors(sizes, "cuda"))
    ms = timed(optimizer.step)
    print(f"{name:24} {label:32} {ms:9.4f} ms  {ms * 1e6 / sum(sizes):7.4f} ns/element", flush=True)
    results.add(kind=kind, list=name, ms=ms, elements=sum(sizes))


def mlp():
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


def cnn():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 10))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.attn(self.ln_1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """The network of models/gpt-train-step/make.py, with the same number of parameter tensors in the same shapes."""

    def __init__(self, layers=12, width=768, heads=12, context=1024, vocabulary=50257):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight).flatten(0, 1)


def whole_step(model, x, y, how, narrow, fused=True):
    """A function that takes one step of AdamW and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)
    device = x.device.type

    def loss():
        with torch.autocast(device, torch.bfloat16) if narrow else contextlib.nullcontext():
            return F.cross_entropy(model(x).float(), y.flatten())

    run = loss if how == "eager" else torch.compile(loss, mode=how)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = run()
        value.backward()
        optimizer.step()
        return value

    return step


def time_step(name, key, make, x, y, narrow, results):
    precision = "bf16" if narrow else "f32"
    for how in MODES:
        # A mode that fails, for want of memory perhaps, must not cost the others' figures; it is said, and has no figure.
        try:
            torch.compiler.reset()
            ms = timed(whole_step(make().cuda(), x, y, how, narrow))
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            print(f"{name:24} {precision:5} {how:20} failed: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"{name:24} {precision:5} {how:20} {ms:9.4f} ms a step", flush=True)
        results.add(kind="torch_step", model=key, precision=precision, how=how, ms=ms)


def run(part, results):
    if part == "lists":
        for name in LISTS:
            make = lambda all: torch.optim.AdamW(all, lr=1e-3, fused=True)
            time_list("torch_adamw", "AdamW(fused=True)", name, make, results)
    elif part == "restated":
        for name in ("200 x 50,000", "ResNet-18", "GPT-2 small"):
            make = lambda all: neuroplastic_torch.NeuroPlastic(all, lr=1e-3)
            time_list("restated", "NeuroPlastic, restated, eager", name, make, results)
    elif part == "steps":
        labels = torch.randint(10, (128,), device="cuda")
        time_step("MLP", "mlp_adamw_unoptimized", mlp, torch.randn(128, 784, device="cuda"), labels, False, results)
        time_step("small CNN", "cnn_adamw", cnn, torch.randn(128, 1, 28, 28, device="cuda"), labels, False, results)
    else:
        tokens, targets = (torch.randint(50257, (8, 1024), device="cuda") for _ in range(2))
        for narrow in (True, False):
            time_step("GPT-2 small, batch 8", "gpt2_small", Gpt, tokens, targets, narrow, results)


def check():
    """What can be seen without a GPU: sizes, and that every kind of step runs and learns (tiny, on the CPU)."""
    sizes = [p.numel() for p in Gpt().parameters()]
    assert sorted(sizes) == sorted(gpt2_small()), "GPT-2 small's tensors are not those of the list"
    assert sum(resnet18()) == 11_689_512, "ResNet-18 has 11,689,512 parameters"
    torch.manual_seed(1)
    tokens = torch.randint(64, (4, 17))
    for narrow in (False, True):
        model = Gpt(layers=2, width=32, heads=4, context=16, vocabulary=64)
        step = whole_step(model, tokens[:, :-1], tokens[:, 1:].contiguous(), "eager", narrow)
        losses = [step().item() for _ in range(20)]
        assert abs(losses[0] - math.log(64)) < 0.2 and losses[-1] < losses[0], losses
    for make, shape in ((mlp, (128, 784)), (cnn, (128, 1, 28, 28))):
        step = whole_step(make(), torch.randn(shape), torch.randint(10, (128,)), "eager", False)
        losses = [step().item() for _ in range(5)]
        assert abs(losses[0] - math.log(10)) < 0.3 and losses[-1] < losses[0], losses
    print("the peers' sizes are right, and their steps run on the CPU")


def main():
    parser = argparse.ArgumentParser(description="PyTorch's times for what gpu_bench times.")
    parser.add_argument("--json", metavar="FILE", help="append every figure to this file")
    parser.add_argument("--check", action="store_true", help="check sizes and steps on the CPU, time nothing")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"'{unknown[0]}' is none of {', '.join(PARTS)}")
    if given.check:
        check()
        return
    if not torch.cuda.is_available():
        sys.exit("gpu_torch.py: PyTorch sees no GPU here")
    results = Results(given.json)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(0)}", flush=True)
    results.add(kind="torch", version=torch.__version__, device=torch.cuda.get_device_name(0))
    for part in given.parts or PARTS:
        run(part, results)


if __name__ == "__main__":
    main()
