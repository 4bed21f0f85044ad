"""The method of `NeuroPlastic` in eager PyTorch: a restatement of its equations (classic base), ours, for `gpu_torch.py` to time.

    python3 benchmarks/neuroplastic_torch.py [FOLDER]    step on the CPU what the method's vectors hold (default tests/golden)

Written as the equations read, and as a PyTorch optimizer usually is: a Python loop over the tensors, an operator at a time, a wait
for the device where an equation asks `if ‖u‖ > max_update_norm`. It is not its authors' code, and no figure of theirs.
"""

import json
import pathlib
import sys

import torch

CASES = ("classic_default", "paper_working_point")


class NeuroPlastic(torch.optim.Optimizer):
    """Base `classic`, mode `rule_based`, no weight decay, no controller, every parameter for itself."""

    def __init__(
        self,
        params,
        lr=1e-3,
        activity_weight=0.4,
        gradient_weight=0.4,
        memory_weight=0.2,
        plasticity_scale=1.0,
        min_alpha=0.2,
        max_alpha=2.0,
        warmup_epochs=0,
        max_update_norm=1.0,
        target_rms=0.02,
        adaptation_rate=0.01,
        eps=1e-8,
    ):
        given = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, given)
        self.epoch = 1

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            warmup = group["warmup_epochs"]
            gate = 1.0 if warmup <= 0 else min(max((self.epoch - 1) / warmup, 0.0), 1.0)
            for theta in group["params"]:
                if theta.grad is not None:
                    self.step_tensor(theta, theta.grad, gate * group["plasticity_scale"], group)

    def step_tensor(self, theta, g, blend, c):
        eps = c["eps"]
        state = self.state[theta]
        if not state:
            for name in ("activity_trace", "momentum", "variance"):
                state[name] = torch.zeros_like(theta)
        a, m, v = state["activity_trace"], state["momentum"], state["variance"]
        # 1. Traces and memory.
        a.mul_(0.95).add_(g.abs(), alpha=0.05)
        m.mul_(0.9).add_(g, alpha=0.1)
        v.mul_(0.99).addcmul_(g, g, value=0.01)
        # 2. Signals.
        signal = lambda x: x / (x.mean() + eps)
        gradient, activity, memory = signal(g.abs()), signal(a), signal(m.abs() / (v.sqrt() + eps))
        # 3., 4. Plasticity coefficients and their blend.
        clip = lambda x: x.clamp(c["min_alpha"], c["max_alpha"])
        alone = clip(gradient)
        full = clip(c["activity_weight"] * activity + c["gradient_weight"] * gradient + c["memory_weight"] * memory)
        alpha = alone + blend * (full - alone)
        # 6. Update.
        u = alpha * g
        # 8. Homeostatic stabilisation.
        norm = u.norm().item()
        if norm > c["max_update_norm"]:
            u = u * (c["max_update_norm"] / (norm + 1e-8))
        rms = (u.square().mean() + 1e-8).sqrt()
        gain = (1.0 + c["adaptation_rate"] * (c["target_rms"] - rms)).clamp(0.5, 1.5)
        u = gain * u
        # 9.
        theta.add_(u, alpha=-c["lr"])


def check(path):
    """The largest deviation from a case's parameters and states, where 1 is what the vectors allow (2e-6 + 2e-5·|value|)."""
    case = json.loads(path.read_text())
    settings = dict(case["settings"])
    if settings.pop("weight_decay", 0.0) != 0.0 or settings.pop("decoupled_weight_decay", False):
        raise ValueError(f"{path.name}: weight decay is not restated here")
    shapes = case["shapes"]
    shaped = lambda values: [torch.tensor(v, dtype=torch.float32).reshape(s) for v, s in zip(values, shapes)]
    parameters = [p.requires_grad_() for p in shaped(case["initial_params"])]
    optimizer = NeuroPlastic(parameters, **settings)
    worst = 0.0

    def compare(found, wanted):
        nonlocal worst
        for x, y in zip(found, shaped(wanted), strict=True):
            worst = max(worst, ((x - y).abs() / (2e-6 + 2e-5 * y.abs())).max().item())

    for step in case["steps"]:
        optimizer.epoch = step["epoch"]
        for p, g in zip(parameters, shaped(step["grads"])):
            p.grad = g
        optimizer.step()
        compare([p.detach() for p in parameters], step["params"])
    for name in ("activity_trace", "momentum", "variance"):
        compare([optimizer.state[p][name] for p in parameters], [s[name] for s in case["final_state"]])
    return worst


def main():
    folder = pathlib.Path(__file__).resolve().parents[1] / "tests" / "golden"
    if sys.argv[1:]:
        folder = pathlib.Path(sys.argv[1])
    failed = False
    for name in CASES:
        worst = check(folder / f"{name}.json")
        failed |= not worst <= 1.0
        print(f"{name}: largest deviation {worst:.3f} of what the vectors allow")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
