"""The aims for a GPU beside what `tests/gpu.sh run` measured, as Markdown tables.

    python3 benchmarks/gpu_report.py [FOLDER]      default target/gpu/results

Reads FOLDER/figures.jsonl, where every part of the run leaves its results, one JSON object a line; of the same thing the last line
counts. What was not measured is said to be so; nothing is estimated but the epoch of 60,000 images, from the images a second of the
part that is shipped. An aim is compared with the fastest peer of the kind that it names, and which that was is said.
"""

import json
import pathlib
import sys

IMAGES = 60_000
PARTS = ("tests", "memcheck", "racecheck", "initcheck", "train", "bench", "torch-lists", "torch-restated", "torch-steps", "torch-gpt",
         "torch-gpt-f32")
LISTS = ("ResNet-18", "GPT-2 small", "200 x 50,000", "1 x 100,000,000")
FUSED = ("step", "captured")
EAGER = ("eager",)
# `captured default`: compiled, and model and optimizer in one CUDA graph.
COMPILED = ("default", "reduce-overhead", "max-autotune", "captured default")
NONE = "not measured"
# The test of the aim for the losses.
LOSSES = "on_a_gpu_losses_follow_the_cpus"


class Figures:
    def __init__(self, folder):
        path = pathlib.Path(folder) / "figures.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        self.all = [json.loads(line) for line in lines if line.strip()]

    def of(self, kind):
        return [f for f in self.all if f.get("kind") == kind]

    def find(self, key="ms", **wanted):
        found = [f[key] for f in self.all if all(f.get(k) == v for k, v in wanted.items())]
        return found[-1] if found else None

    def latest(self, kind, *keys):
        """The last figure of every thing that `keys` tell apart, in the order in which they came first."""
        found = {}
        for figure in self.of(kind):
            found[tuple(figure.get(k) for k in keys)] = figure
        return list(found.values())

    def least(self, hows, **wanted):
        """The fastest of several ways, and which it was."""
        found = [(self.find(how=how, **wanted), how) for how in hows]
        return min((f for f in found if f[0] is not None), default=(None, None))

    def epoch(self, run):
        """Seconds of the fastest epoch of 60,000 images, and how it was come by."""
        epochs = [e for e in self.of("epoch") if e.get("run") == run]
        if not epochs:
            return None, ""
        best = max(epochs, key=lambda e: e["samples_per_second"])
        images = best["samples_per_second"] * best["seconds"]
        if images >= 0.8 * IMAGES:
            return best["seconds"], f"{images:,.0f} images"
        return IMAGES / best["samples_per_second"], f"from {images:,.0f} images in {best['seconds']:.3f} s"

    def counts(self, kind):
        """How many of the tests or checks passed, the names of the others, and of how many."""
        found = self.latest(kind, "tool", "name")
        failed = [" ".join(filter(None, (f.get("tool"), f["name"].split("::")[-1], f"({f['outcome']})"))) for f in found
                  if f["outcome"] != "passed"]
        return len(found) - len(failed), failed, len(found)


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


def lists(f):
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
            theirs, how = f.least(FUSED, kind="torch_adamw", list=name)
            aim = f"fused step, {base}, {name}: ≤ 1.5 × the time of PyTorch's fused AdamW"
            yield ratio(aim, ours, theirs, 1.5, f"PyTorch, {how}", at_least=False)
    for name in LISTS[:3]:
        ours, theirs = f.find(kind="fused", list=name, base="classic", form="planned"), f.find(kind="restated", list=name)
        aim = f"fused step, classic, {name}: ≥ 30 × as fast as the method in eager PyTorch (our restatement)"
        yield ratio(aim, ours, theirs, 30, "restated")


def steps(f):
    def beside(label, model, precision, hows, peer, limit, note=""):
        ours = f.find(kind="step", model=model, precision=precision)
        theirs, how = f.least(hows, kind="torch_step", model=model, precision=precision)
        return ratio(f"{label}'s step, {precision}: ≥ {limit} × as fast as {peer}{note}", ours, theirs, float(limit), how)

    for label, model in (("MLP", "mlp_adamw_unoptimized"), ("small CNN", "cnn_adamw")):
        for precision, note in (("f32", ""), ("tf32", " (no aim)")):
            yield beside(label, model, precision, EAGER, "PyTorch, eager", "5", note)
            yield beside(label, model, precision, COMPILED, "`torch.compile`", "2", note)
    for precision, note in (("bf16", ""), ("f32", " (no aim)")):
        yield beside("GPT-2 small", "gpt2_small", precision, COMPILED, "`torch.compile`", "1.0", note)


def correctness(f):
    losses = [t for t in f.latest("test", "name") if t["name"].endswith(LOSSES)]
    outcome = losses[0]["outcome"] if losses else None
    yield row("100 steps within 1e-4 of the CPU's loss", outcome, None if outcome is None else outcome == "passed")
    for kind, what in (("test", "every test that needs a GPU"), ("check", "NVIDIA's checkers find nothing")):
        passed, failed, all = f.counts(kind)
        measured = None if all == 0 else f"{passed} of {all}" + ("; not: " + ", ".join(failed) if failed else "")
        yield row(what, measured, None if all == 0 else not failed)


def rows(f):
    yield from lists(f)
    yield from steps(f)
    seconds, how = f.epoch("f32")
    known = None if seconds is None else f"{seconds:.3f} s ({how})"
    yield row("a Fashion-MNIST epoch of the MLP, f32: ≤ 0.1 s", known, None if seconds is None else seconds <= 0.1)
    yield from correctness(f)


def table(head, rows):
    """Nothing where there are no rows."""
    if not rows:
        return []
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return ["", line(head), "|" + "---|" * len(head), *(line(r) for r in rows)]


def details(f):
    ours = []
    for x in f.latest("step", "model", "precision"):
        plain = f"{x['plain_products']} ({x['products_in_plain']})"
        libraries = [str(x["products_with_epilogue"]), plain, str(x["convolutions"])]
        memory = [f"{x['arena_bytes'] / 1e6:,.1f} MB", f"{x['kept_bytes'] / 1e6:,.1f} MB"]
        ours.append([x["model"], x["precision"], f"{x['ms']:.4g}", str(x["pieces"]), *libraries, *memory])
    head = ["step", "precision", "ms", "pieces of work", "of them products with an epilogue", "plain (products)", "convolutions by cuDNN",
            "arena", "parameters and states"]
    yield from table(head, ours)
    theirs = [[x["model"], x["precision"], x["how"], f"{x['ms']:.4g}"] for x in f.latest("torch_step", "model", "precision", "how")]
    yield from table(["PyTorch's step", "precision", "way", "ms"], theirs)
    theirs = [[x["list"], x["how"], f"{x['ms']:.4g}"] for x in f.latest("torch_adamw", "list", "how")]
    yield from table(["PyTorch's fused AdamW", "way", "ms"], theirs)
    parts = {p["part"]: p for p in f.latest("part", "part")}
    said = [[p, f"{parts[p]['outcome']}, {parts[p]['seconds']} s" if p in parts else "not run"] for p in PARTS]
    said += [[f"training, {t['run']}", t["outcome"]] for t in f.latest("train", "run") if t["outcome"] != "passed"]
    said += [[f"PyTorch: {w['part']}, {w['how']}", w["outcome"]] for w in f.latest("torch_way", "part", "how") if w["outcome"] != "done"]
    yield from table(["part", "outcome"], said)


def heading(f):
    dates = list(dict.fromkeys(r["date"] for r in f.of("run"))) or ["an unknown day"]
    devices = list(dict.fromkeys(r["device"] or "an unnamed GPU" for r in f.of("run"))) or ["an unnamed GPU"]
    versions = [x["version"] for x in f.of("torch")]
    beside = f", PyTorch {versions[-1]}" if versions else ""
    copy = f.find("bytes_per_second", kind="copy")
    speed = f", copy {copy / 1e9:,.0f} GB/s read and written" if copy else ""
    text = f"{', '.join(dates)}, {' and '.join(devices)}{speed}{beside}."
    return text if len(devices) == 1 else f"{text} **Figures of several GPUs: ratios may compare one with another.**"


def report(folder):
    f = Figures(folder)
    return "\n".join([heading(f), "", "| aim | measured | reached |", "|---|---|---|", *rows(f), *details(f)]) + "\n"


if __name__ == "__main__":
    folder = sys.argv[1] if sys.argv[1:] else pathlib.Path(__file__).resolve().parents[1] / "target/gpu/results"
    if not pathlib.Path(folder).is_dir():
        sys.exit(f"gpu_report.py: there is no folder {folder}; tests/gpu.sh run makes it")
    sys.stdout.write(report(folder))
