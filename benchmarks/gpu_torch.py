"""What PyTorch takes on the first GPU for what `gpu_bench` times: AdamW on parameter lists, a whole MLP and CNN step.

    python3 benchmarks/gpu_torch.py        needs torch with CUDA; tests/gpu.sh runs it after gpu_bench

Milliseconds, the least of five rounds. The step is eager, and compiled with mode="max-autotune-no-cudagraphs" and
"reduce-overhead" (CUDA graphs).
"""

import time

import torch
import torch.nn.functional as F
from torch import nn


def timed(run, count=100):
    run()
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            run()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / count)
    return best * 1e3


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


def adamw(name, sizes):
    tensors = [torch.full((n,), 0.1, device="cuda", requires_grad=True) for n in sizes]
    for t in tensors:
        t.grad = torch.full_like(t, 0.01)
    optimizer = torch.optim.AdamW(tensors, lr=1e-3, fused=True)
    ms = timed(optimizer.step)
    print(f"{name:24} AdamW(fused=True) {ms:9.4f} ms  {ms * 1e6 / sum(sizes):7.4f} ns/element")


def mlp():
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), (128, 784)


def cnn():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 10)), (128, 1, 28, 28)


def whole(name, make):
    for how in ("eager", "max-autotune-no-cudagraphs", "reduce-overhead"):
        model, shape = make()
        model = model.cuda()
        x, y = torch.randn(shape, device="cuda"), torch.randint(10, shape[:1], device="cuda")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def loss():
            return F.cross_entropy(model(x), y)

        run = loss if how == "eager" else torch.compile(loss, mode=how)

        def step():
            optimizer.zero_grad(set_to_none=True)
            run().backward()
            optimizer.step()

        print(f"{name:24} {how:28} {timed(step):9.4f} ms a step")


def main():
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(0)}")
    adamw("200 x 50,000", [50_000] * 200)
    adamw("ResNet-18", resnet18())
    adamw("GPT-2 small", gpt2_small())
    adamw("1 x 100,000,000", [100_000_000])
    whole("MLP, batch 128", mlp)
    whole("small CNN, batch 128", cnn)


if __name__ == "__main__":
    main()
