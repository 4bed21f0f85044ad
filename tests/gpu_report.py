"""Checks benchmarks/gpu_report.py on figures made up for this test alone."""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu_report

RUN = {"kind": "run", "date": "1 January 2000", "device": "A Card"}
COUNTS = {"arena_bytes": 10**9, "kept_bytes": 10**6, "loss": 1.0, "products_with_epilogue": 4, "plain_products": 5, "products_in_plain": 9,
          "convolutions": 6}
FIGURES = [
    RUN,
    {"kind": "copy", "bytes_per_second": 2e12},
    {"kind": "torch", "version": "0.0", "device": "made up"},
    {"kind": "fused", "list": "ResNet-18", "base": "classic", "form": "planned", "ms": 9.0, "elements": 10, "least_bytes": 360, "share": 0.5},
    {"kind": "fused", "list": "ResNet-18", "base": "classic", "form": "planned", "ms": 1.0, "elements": 10, "least_bytes": 360, "share": 0.95},
    {"kind": "fused", "list": "ResNet-18", "base": "classic", "form": "one launch", "ms": 0.1, "elements": 10, "least_bytes": 360, "share": 2.0},
    {"kind": "fused", "list": "GPT-2 small", "base": "classic", "form": "planned", "ms": 4.0, "elements": 10, "least_bytes": 600, "share": 0.8},
    {"kind": "torch_adamw", "list": "ResNet-18", "how": "step", "ms": 3.0, "elements": 10},
    {"kind": "torch_adamw", "list": "ResNet-18", "how": "captured", "ms": 0.8, "elements": 10},
    {"kind": "torch_adamw", "list": "GPT-2 small", "how": "step", "ms": 2.0, "elements": 10},
    {"kind": "restated", "list": "ResNet-18", "ms": 31.0, "elements": 10},
    {"kind": "restated", "list": "GPT-2 small", "ms": 31.0, "elements": 10},
    {"kind": "step", "model": "cnn_adamw", "precision": "f32", "ms": 2.0, "pieces": 21, **COUNTS},
    {"kind": "step", "model": "cnn_adamw", "precision": "tf32", "ms": 1.0, "pieces": 21, **COUNTS},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "tf32", "how": "captured default", "ms": 1.5},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "eager", "ms": 9.0},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "default", "ms": 8.0},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "max-autotune", "ms": 5.0},
    # No peer of an aim: it is not what one means by eager.
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "captured eager", "ms": 1.0},
    {"kind": "step", "model": "gpt2_small", "precision": "bf16", "ms": 50.0, "pieces": 3, **COUNTS},
    {"kind": "epoch", "run": "f32", "epoch": 1, "seconds": 0.03, "samples_per_second": 300_000.0},
    {"kind": "epoch", "run": "f32", "epoch": 2, "seconds": 0.018, "samples_per_second": 500_000.0},
    {"kind": "epoch", "run": "cnn", "epoch": 1, "seconds": 0.001, "samples_per_second": 9e6},
    {"kind": "train", "run": "bf16", "outcome": "failed"},
    {"kind": "test", "name": "train::engine_tests::on_a_gpu_losses_follow_the_cpus", "outcome": "passed", "seconds": 2},
    {"kind": "test", "name": "plan::tests::on_a_gpu::golden_vectors", "outcome": "failed", "seconds": 2},
    {"kind": "test", "name": "plan::tests::on_a_gpu::golden_vectors", "outcome": "passed", "seconds": 2},
    {"kind": "check", "tool": "memcheck", "name": "plan::tests::on_a_gpu::golden_vectors", "outcome": "passed", "seconds": 2},
    {"kind": "check", "tool": "racecheck", "name": "plan::tests::on_a_gpu::golden_vectors", "outcome": "out of time", "seconds": 2},
    {"kind": "torch_way", "part": "gpt", "how": "max-autotune", "outcome": "not done after 300 s"},
    {"kind": "torch_way", "part": "gpt", "how": "eager", "outcome": "done"},
    {"kind": "part", "part": "bench", "outcome": "passed", "seconds": 40},
]

EXPECTED = {
    "fused step, classic, ResNet-18: ≥ 90 %": "95.0 % at 36.0 bytes an element | yes",
    "fused step, classic, GPT-2 small: ≥ 90 %": "80.0 % at 60.0 bytes an element | **no**",
    "fused step, adamw, ResNet-18: ≥ 90 %": "not measured |",
    "fused step, classic, ResNet-18: ≤ 1.5 ×": "1.25 × (1 ms; PyTorch, captured 0.8 ms) | yes",
    "fused step, classic, GPT-2 small: ≤ 1.5 ×": "2.00 × (4 ms; PyTorch, step 2 ms) | **no**",
    "fused step, classic, ResNet-18: ≥ 30 ×": "31.00 × (1 ms; restated 31 ms) | yes",
    "fused step, classic, GPT-2 small: ≥ 30 ×": "7.75 × (4 ms; restated 31 ms) | **no**",
    "MLP's step, f32: ≥ 5 ×": "not measured: ours and the peer |",
    "small CNN's step, f32: ≥ 5 ×": "4.50 × (2 ms; eager 9 ms) | **no**",
    "small CNN's step, f32: ≥ 2 ×": "2.50 × (2 ms; max-autotune 5 ms) | yes",
    "small CNN's step, tf32: ≥ 2 ×": "1.50 × (1 ms; captured default 1.5 ms) | **no**",
    "GPT-2 small's step, bf16: ≥ 1.0 ×": "not measured: the peer |",
    "a Fashion-MNIST epoch": "0.120 s (from 9,000 images in 0.018 s) | **no**",
    "100 steps within 1e-4": "passed | yes",
    "every test that needs a GPU": "2 of 2 | yes",
    "NVIDIA's checkers": "1 of 2; not: racecheck golden_vectors (out of time) | **no**",
}

# Rows of the tables below the aims.
DETAILS = (
    "| gpt2_small | bf16 | 50 | 3 | 4 | 5 (9) | 6 | 1,000.0 MB | 1.0 MB |",
    "| cnn_adamw | f32 | captured eager | 1 |",
    "| ResNet-18 | captured | 0.8 |",
    "| bench | passed, 40 s |",
    "| torch-gpt | not run |",
    "| training, bf16 | failed |",
    "| PyTorch: gpt, max-autotune | not done after 300 s |",
)


def line(report, start):
    found = [l for l in report.splitlines() if l.startswith(f"| {start}")]
    assert len(found) == 1, f"{len(found)} lines for '{start}'"
    return found[0]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # Nothing was measured: every aim is there, and says so.
        empty = gpu_report.report(folder)
        for start in EXPECTED:
            assert "| not measured" in line(empty, start) and line(empty, start).endswith("|  |"), line(empty, start)
        write = lambda figures: (folder / "figures.jsonl").write_text("".join(json.dumps(f) + "\n" for f in figures))
        write(FIGURES)
        report = gpu_report.report(folder)
        assert report.startswith("1 January 2000, A Card, copy 2,000 GB/s read and written, PyTorch 0.0.\n"), report
        for start, wanted in EXPECTED.items():
            assert wanted in line(report, start), f"{line(report, start)} lacks {wanted}"
        for wanted in DETAILS:
            assert wanted in report.splitlines(), f"{wanted} is not in {report}"
        # A way that went well is not listed among what went wrong; figures of another card are not mixed in silence.
        assert "gpt, eager" not in report and "several GPUs" not in report, report
        losses = next(f for f in FIGURES if f["kind"] == "test")
        write([*FIGURES, RUN | {"device": "Another"}, losses | {"outcome": "failed"}])
        report = gpu_report.report(folder)
        assert "A Card and Another" in report and "several GPUs" in report, report
        assert line(report, "100 steps").endswith("| **no** |") and line(report, "every test").endswith("| **no** |"), report
    print(f"{len(EXPECTED)} aims are reported as measured")


if __name__ == "__main__":
    main()
