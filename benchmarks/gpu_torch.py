"""What PyTorch takes on the first GPU for what `gpu_bench` times.

    python3 benchmarks/gpu_torch.py [--json FILE] [PART ...]      default: all parts but gpt-f32; needs torch with CUDA
    python3 benchmarks/gpu_torch.py --check                       what can be seen without a GPU

lists     AdamW(fused=True) on parameter lists: optimizer.step(), and the same captured once in a CUDA graph and replayed
restated  the NeuroPlastic method in eager PyTorch on the same lists: our restatement (neuroplastic_torch.py), not its authors' code
steps     whole MLP and CNN steps, batch 128, in float32 (no TF32 anywhere) and in TF32 (products and convolutions)
gpt       GPT-2 small's whole step, batch 8 of 1024 tokens, no dropout, under bfloat16 autocast
gpt-f32   the same in float32

Milliseconds, the least of five rounds. A whole step is eager, and compiled in the modes "default", "reduce-overhead" (CUDA graphs)
and "max-autotune", with fused AdamW; "captured eager" and "captured default" have model and optimizer in one CUDA graph. The CUDA peers
get the same float32 parameters as ours. Every way is a process of its own: it starts with an empty GPU, and what fails or takes too
long (said so, status 1) does not cost the others' figures. FILE gets a JSON object for every figure, which gpu_report.py reads.
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import neuroplastic_torch

# The longest last: it is what a call may have no time for.
STEPS = ("eager", "captured eager", "default", "captured default", "reduce-overhead", "max-autotune")
WAYS = {"lists": ("step", "captured"), "restated": ("eager",), "steps": STEPS, "gpt": STEPS, "gpt-f32": STEPS}
ASKED = ("lists", "restated", "steps", "gpt")
# Seconds that a way may take.
PATIENCE = {"max-autotune": 300}


class Results:
    def __init__(self, path):
        self.path = path
        self.failed = False

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


def captured(step):
    """The step as one CUDA graph: a function that replays it. What is lazily made must be made before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()

    def replay():
        graph.replay()
        return value

    return replay


def round_factors(precision):
    """What products and convolutions of float32 may round their factors to: nothing in f32. cuDNN's default is TF32."""
    torch.set_float32_matmul_precision("highest" if precision == "f32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "f32"


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


def tensors(sizes, device):
    result = [torch.full((n,), 0.1, device=device, requires_grad=True) for n in sizes]
    for t in result:
        t.grad = torch.full_like(t, 0.01)
    return result


def adamw(parameters, is_captured):
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True, capturable=is_captured)


def time_list(kind, how, name, results):
    sizes = LISTS[name]
    parameters = tensors(sizes, "cuda")
    if kind == "restated":
        step = neuroplastic_torch.NeuroPlastic(parameters, lr=1e-3).step
    else:
        step = adamw(parameters, how == "captured").step
        step = captured(step) if how == "captured" else step
    last = lambda: parameters[-1][-1].item()
    before = last()
    ms = timed(step)
    if last() == before:
        raise RuntimeError("the parameters did not move")
    print(f"{name:24} {kind + ', ' + how:32} {ms:9.4f} ms  {ms * 1e6 / sum(sizes):7.4f} ns/element", flush=True)
    results.add(kind=kind, list=name, how=how, ms=ms, elements=sum(sizes))


def whole_step(model, x, y, how, narrow):
    """A function that takes one step of AdamW and returns the loss."""
    is_captured = how.startswith("captured")
    mode = how.removeprefix("captured ")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=is_captured)
    device = x.device.type

    def loss():
        with torch.autocast(device, torch.bfloat16) if narrow else contextlib.nullcontext():
            return F.cross_entropy(model(x).float(), y.flatten())

    run = loss if mode == "eager" else torch.compile(loss, mode=mode)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = run()
        value.backward()
        optimizer.step()
        return value.detach()

    return captured(step) if is_captured else step


def time_step(name, key, make, x, y, precision, how, results):
    round_factors(precision)
    torch.compiler.reset()
    torch.manual_seed(1)
    step = whole_step(make().cuda(), x, y, how, precision == "bf16")
    first = step().item()
    ms = timed(step)
    last = step().item()
    # The same batch again and again is learnt, unless a part of the step was left out.
    if not (math.isfinite(last) and last < first):
        raise RuntimeError(f"the loss went from {first} to {last}")
    print(f"{name:24} {precision:5} {how:20} {ms:9.4f} ms a step (loss {first:.4f} to {last:.4f})", flush=True)
    results.add(kind="torch_step", model=key, precision=precision, how=how, ms=ms)


def attempt(label, run, results):
    """A figure that cannot be had, for want of memory perhaps, must not cost the others."""
    try:
        run()
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{label} failed: {first}", flush=True)
        results.failed = True
    torch.cuda.empty_cache()


def one(part, how, results):
    """A way of a part, in this process."""
    results.add(kind="torch", version=torch.__version__, device=torch.cuda.get_device_name(0))
    if part in ("lists", "restated"):
        kind = "torch_adamw" if part == "lists" else "restated"
        # A single tensor says nothing about a loop over tensors.
        for name in LISTS if part == "lists" else list(LISTS)[:3]:
            attempt(f"{name}, {kind}, {how}", lambda: time_list(kind, how, name, results), results)
    elif part == "steps":
        labels = torch.randint(10, (128,), device="cuda")
        for name, key, make, shape in (("MLP", "mlp_adamw_unoptimized", mlp, (784,)), ("small CNN", "cnn_adamw", cnn, (1, 28, 28))):
            x = torch.randn(128, *shape, device="cuda")
            for precision in ("f32", "tf32"):
                label = f"{name}, {precision}, {how}"
                attempt(label, lambda: time_step(name, key, make, x, labels, precision, how, results), results)
    else:
        tokens, targets = (torch.randint(50257, (8, 1024), device="cuda") for _ in range(2))
        precision = "bf16" if part == "gpt" else "f32"
        label = f"GPT-2 small, {precision}, {how}"
        attempt(label, lambda: time_step("GPT-2 small, batch 8", "gpt2_small", Gpt, tokens, targets, precision, how, results), results)


def in_a_process(part, how, results):
    """Whether every figure was had."""
    command = [sys.executable, __file__, "--one", how, part] + (["--json", results.path] if results.path else [])
    patience = PATIENCE.get(how, 180)
    try:
        status = subprocess.run(command, timeout=patience).returncode
        outcome = "done" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        outcome = f"not done after {patience} s"
    if outcome != "done":
        print(f"{part}, {how}: {outcome}", flush=True)
    results.add(kind="torch_way", part=part, how=how, outcome=outcome)
    return outcome == "done"


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
    parser.add_argument("--one", metavar="WAY", help="only this way of the part, in this process")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(WAYS))
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in WAYS]
    if unknown:
        parser.error(f"'{unknown[0]}' is none of {', '.join(WAYS)}")
    if given.check:
        check()
        return 0
    if not torch.cuda.is_available():
        sys.exit("gpu_torch.py: PyTorch sees no GPU here")
    results = Results(given.json)
    if given.one:
        for part in given.parts:
            one(part, given.one, results)
        return int(results.failed)
    print(f"torch {torch.__version__}", flush=True)
    done = [in_a_process(part, how, results) for part in given.parts or ASKED for how in WAYS[part]]
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(main())
