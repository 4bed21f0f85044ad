"""Checks benchmarks/gpu_report.py on figures made up for this test alone."""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu_report

FIGURES = [
    {"kind": "copy", "bytes_per_second": 2e12},
    {"kind": "torch", "version": "0.0", "device": "made up"},
    {"kind": "fused", "list": "ResNet-18", "base": "classic", "form": "planned", "ms": 9.0, "elements": 10, "least_bytes": 360, "share": 0.5},
    {"kind": "fused", "list": "ResNet-18", "base": "classic", "form": "planned", "ms": 1.0, "elements": 10, "least_bytes": 360, "share": 0.95},
    {"kind": "fused", "list": "ResNet-18", "base": "classic", "form": "one launch", "ms": 0.1, "elements": 10, "least_bytes": 360, "share": 2.0},
    {"kind": "fused", "list": "GPT-2 small", "base": "classic", "form": "planned", "ms": 4.0, "elements": 10, "least_bytes": 600, "share": 0.8},
    {"kind": "torch_adamw", "list": "ResNet-18", "ms": 0.8, "elements": 10},
    {"kind": "torch_adamw", "list": "GPT-2 small", "ms": 2.0, "elements": 10},
    {"kind": "restated", "list": "ResNet-18", "ms": 31.0, "elements": 10},
    {"kind": "restated", "list": "GPT-2 small", "ms": 31.0, "elements": 10},
    {"kind": "step", "model": "cnn_adamw", "precision": "f32", "ms": 2.0, "pieces": 3, "arena_bytes": 10**9, "kept_bytes": 10**6, "loss": 1.0},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "eager", "ms": 9.0},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "default", "ms": 8.0},
    {"kind": "torch_step", "model": "cnn_adamw", "precision": "f32", "how": "max-autotune", "ms": 5.0},
    {"kind": "step", "model": "gpt2_small", "precision": "bf16", "ms": 50.0, "pieces": 3, "arena_bytes": 10**9, "kept_bytes": 10**6, "loss": 1.0},
]

EXPECTED = {
    "fused step, classic, ResNet-18: ≥ 90 %": "95.0 % at 36.0 bytes an element | yes",
    "fused step, classic, GPT-2 small: ≥ 90 %": "80.0 % at 60.0 bytes an element | **no**",
    "fused step, adamw, ResNet-18: ≥ 90 %": "not measured |",
    "fused step, classic, ResNet-18: ≤ 1.5 ×": "1.25 × (1 ms; PyTorch 0.8 ms) | yes",
    "fused step, classic, GPT-2 small: ≤ 1.5 ×": "2.00 × (4 ms; PyTorch 2 ms) | **no**",
    "fused step, classic, ResNet-18: ≥ 30 ×": "31.00 × (1 ms; restated 31 ms) | yes",
    "fused step, classic, GPT-2 small: ≥ 30 ×": "7.75 × (4 ms; restated 31 ms) | **no**",
    "MLP's step, f32: ≥ 5 ×": "not measured: ours and the peer |",
    "small CNN's step, f32: ≥ 5 ×": "4.50 × (2 ms; eager 9 ms) | **no**",
    "small CNN's step, f32: ≥ 2 ×": "2.50 × (2 ms; max-autotune 5 ms) | yes",
    "GPT-2 small's step, bf16: ≥ 1.0 ×": "not measured: the peer |",
    "a Fashion-MNIST epoch": "0.120 s (from 9,000 images in 0.018 s) | **no**",
    "100 steps within 1e-4": "test result: ok. 3 passed | yes",
}


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
        (folder / "figures.jsonl").write_text("".join(json.dumps(f) + "\n" for f in FIGURES))
        (folder / "devices.txt").write_text("cpu      2 threads\ncuda:0   A Card, compute capability 9.0, 1 of 2 MiB free\n")
        (folder / "date.txt").write_text("1 January 2000\n")
        (folder / "tests.txt").write_text("running 3 tests\ntest result: ok. 3 passed\n")
        epochs = [{"epoch": 1, "seconds": 0.03, "samples_per_second": 300_000.0}, {"epoch": 2, "seconds": 0.018, "samples_per_second": 500_000.0}]
        (folder / "train-f32.txt").write_text("epoch 1\n" + "".join(json.dumps(e) + "\n" for e in epochs))
        report = gpu_report.report(folder)
        assert report.startswith("1 January 2000, A Card, copy 2,000 GB/s read and written, PyTorch 0.0.\n"), report
        for start, wanted in EXPECTED.items():
            assert wanted in line(report, start), f"{line(report, start)} lacks {wanted}"
        assert "| gpt2_small | bf16 | 50 | 3 | 1,000.0 MB | 1.0 MB |" in report, report
        (folder / "tests.txt").write_text("test result: ok. 3 passed\ntest result: FAILED. 1 passed; 1 failed\n")
        assert line(gpu_report.report(folder), "100 steps").endswith("| **no** |")
    print(f"{len(EXPECTED)} aims are reported as measured")


if __name__ == "__main__":
    main()
