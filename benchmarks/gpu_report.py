"""The aims for a GPU beside what `tests/gpu.sh run` measured, as a Markdown table.

    python3 benchmarks/gpu_report.py [FOLDER]      default target/gpu/results

Reads figures.jsonl (gpu_bench, gpu_torch.py), devices.txt, date.txt, train-*.txt and tests.txt of the folder. What was not measured is
said to be so; nothing is estimated but the epoch of 60,000 images, from the images a second of the part that is shipped.
"""

import json
import pathlib
import sys

IMAGES = 60_000
LISTS = ("ResNet-18", "GPT-2 small", "200 x 50,000", "1 x 100,000,000")
COMPILED = ("default", "reduce-overhead", "max-autotune")
NONE = "not measured"


class Figures:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        lines = self.text("figures.jsonl").splitlines()
        # A run of the same thing again replaces the one before.
        self.all = [json.loads(line) for line in lines if line.strip()]

    def text(self, name):
        path = self.folder / name
        return path.read_text() if path.is_file() else ""

    def find(self, key="ms", **wanted):
        found = [f[key] for f in self.all if all(f.get(k) == v for k, v in wanted.items())]
        return found[-1] if found else None

    def least(self, hows, **wanted):
        """The fastest of several ways, and which it was."""
        found = [(self.find(how=how, **wanted), how) for how in hows]
        return min((f for f in found if f[0] is not None), default=(None, None))

    def device(self):
        line = next((l for l in self.text("devices.txt").splitlines() if l.startswith("cuda:0")), "")
        return line.removeprefix("cuda:0").split(",")[0].strip() or "an unnamed GPU"

    def date(self):
        return self.text("date.txt").strip() or "an unknown day"

    def epoch(self, precision):
        """Seconds of the fastest epoch of 60,000 images, and how it was come by."""
        lines = [l for l in self.text(f"train-{precision}.txt").splitlines() if l.startswith("{")]
        speeds = [json.loads(line) for line in lines]
        if not speeds:
            return None, ""
        best = max(speeds, key=lambda e: e["samples_per_second"])
        images = best["samples_per_second"] * best["seconds"]
        if images >= 0.8 * IMAGES:
            return best["seconds"], f"{images:,.0f} images"
        return IMAGES / best["samples_per_second"], f"from {images:,.0f} images in {best['seconds']:.3f} s"


def row(aim, measured, reached):
    verdict = "" if reached is None else "yes" if reached else "**no**"
    return f"| {aim} | {NONE if measured is None else measured} | {verdict} |"


def ratio(aim, ours, theirs, limit, detail, at_least=True):
    """A row for theirs/ours ≥ limit, or for ours/theirs ≤ limit."""
    if ours is None or theirs is None:
        missing = " and ".join(name for name, value in (("ours", ours), ("the peer", theirs)) if value is None)
        return row(aim, f"{NONE}: {missing}", None)
    value = theirs / ours if at_least else ours / theirs
    return row(aim, f"{value:.2f} × ({ours:.4g} ms; {detail} {theirs:.4g} ms)", value >= limit if at_least else value <= limit)


def rows(f):
    for base in ("classic", "adamw"):
        for name in LISTS:
            share = f.find("share", kind="fused", list=name, base=base, form="planned")
            least, elements = (f.find(k, kind="fused", list=name, base=base, form="planned") for k in ("least_bytes", "elements"))
            known = None if share is None else f"{100 * share:.1f} % at {least / elements:.1f} bytes an element"
            reached = None if share is None else share >= 0.9
            yield row(f"fused step, {base}, {name}: ≥ 90 % of the copy bandwidth", known, reached)
    for base in ("classic", "adamw"):
        for name in LISTS[:2]:
            ours = f.find(kind="fused", list=name, base=base, form="planned")
            theirs = f.find(kind="torch_adamw", list=name)
            aim = f"fused step, {base}, {name}: ≤ 1.5 × the time of PyTorch's fused AdamW"
            yield ratio(aim, ours, theirs, 1.5, "PyTorch", at_least=False)
    for name in LISTS[:3]:
        ours, theirs = f.find(kind="fused", list=name, base="classic", form="planned"), f.find(kind="restated", list=name)
        aim = f"fused step, classic, {name}: ≥ 30 × as fast as the method in eager PyTorch (our restatement)"
        yield ratio(aim, ours, theirs, 30, "restated")
    for label, model in (("MLP", "mlp_adamw_unoptimized"), ("small CNN", "cnn_adamw")):
        ours = f.find(kind="step", model=model, precision="f32")
        eager = f.find(kind="torch_step", model=model, precision="f32", how="eager")
        compiled, how = f.least(COMPILED, kind="torch_step", model=model, precision="f32")
        yield ratio(f"{label}'s step, f32: ≥ 5 × as fast as PyTorch, eager", ours, eager, 5, "eager")
        yield ratio(f"{label}'s step, f32: ≥ 2 × as fast as `torch.compile`", ours, compiled, 2, how)
    for precision, limit in (("bf16", 1.0), ("f32", 1.0)):
        ours = f.find(kind="step", model="gpt2_small", precision=precision)
        compiled, how = f.least(COMPILED, kind="torch_step", model="gpt2_small", precision=precision)
        aim = f"GPT-2 small's step, {precision}: ≥ 1.0 × as fast as `torch.compile`"
        yield ratio(aim + ("" if precision == "bf16" else " (no aim)"), ours, compiled, limit, how)
    seconds, how = f.epoch("f32")
    known = None if seconds is None else f"{seconds:.3f} s ({how})"
    yield row("a Fashion-MNIST epoch of the MLP, f32: ≤ 0.1 s", known, None if seconds is None else seconds <= 0.1)
    results = [l for l in f.text("tests.txt").splitlines() if l.startswith("test result:")]
    passed = bool(results) and all(l.startswith("test result: ok") for l in results)
    yield row("100 steps within 1e-4 of the CPU's loss, and every other check on the GPU", results[-1] if results else None,
              passed if results else None)


def report(folder):
    f = Figures(folder)
    versions = [x for x in f.all if x.get("kind") == "torch"]
    beside = f", PyTorch {versions[-1]['version']}" if versions else ""
    copy = f.find("bytes_per_second", kind="copy")
    speed = f", copy {copy / 1e9:,.0f} GB/s read and written" if copy else ""
    lines = [f"{f.date()}, {f.device()}{speed}{beside}.", "", "| aim | measured | reached |", "|---|---|---|", *rows(f)]
    arenas = [x for x in f.all if x.get("kind") == "step"]
    if arenas:
        lines += ["", "| step | precision | ms | pieces of work | arena | parameters and states |", "|---|---|---|---|---|---|"]
        for x in arenas:
            arena, kept = x["arena_bytes"] / 1e6, x["kept_bytes"] / 1e6
            lines.append(f"| {x['model']} | {x['precision']} | {x['ms']:.4g} | {x['pieces']} | {arena:,.1f} MB | {kept:,.1f} MB |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = sys.argv[1] if sys.argv[1:] else pathlib.Path(__file__).resolve().parents[1] / "target/gpu/results"
    if not pathlib.Path(folder).is_dir():
        sys.exit(f"gpu_report.py: there is no folder {folder}; tests/gpu.sh run makes it")
    sys.stdout.write(report(folder))
