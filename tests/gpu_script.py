"""Checks tests/gpu.sh where there is no GPU: in a copy of what it needs, with stand-ins for the binaries, that parts go on after failures,
that tests end in time, that results come whole into $OUT, and that several calls' results are put together.

    python3 tests/gpu_script.py
"""

import io
import json
import lzma
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = {"report.md", "figures.jsonl", "devices.txt", "tests.txt", "logs.tar.gz"}

NPC = """#!/usr/bin/env bash
if [ "$1" = devices ]; then
  printf 'cpu      2 threads\\ncuda:0   A Card, compute capability 9.0\\n'
  exit
fi
while [ $# -gt 0 ]; do
  [ "$1" != --out ] || out=$2
  [ "$1" != --precision ] || precision=$2
  shift
done
echo "DEBUG a word about libraries" >&2
[ "$precision" != tf32 ] || exit 3
mkdir -p "$out"
echo '{"epoch":1,"seconds":0.5,"samples_per_second":100000.0}' >"$out/metrics.jsonl"
"""

# One test that passes where the files are, one that fails, and one that hangs.
TESTS = """#!/usr/bin/env bash
if [ "$1" = --list ]; then
  printf 'a::on_a_gpu::passes: test\\na::on_a_gpu::fails: test\\na::on_a_gpu::hangs: test\\n\\n3 tests, 0 benchmarks\\n'
  exit
fi
case "$3" in
  *passes) [ -d "$NPC_ROOT/benchmarks" ] && echo 'test result: ok. 1 passed; 0 failed' ;;
  *fails) echo 'thread panicked' && exit 101 ;;
  *hangs) sleep 100 ;;
esac
"""

BENCH = """#!/usr/bin/env bash
[ "$3" != lists ] || exit 1
echo '{"kind": "copy", "bytes_per_second": 1e12}' >>"$2"
"""


# Initcheck looks at this device, the others cannot.
SANITIZER = """#!/usr/bin/env bash
if [ "$2" = initcheck ]; then
  printf 'test result: ok. 1 passed; 0 failed\n========= ERROR SUMMARY: 0 errors\n'
else
  printf 'test result: ok. 1 passed; 0 failed\n========= Error: Device not supported\n'
fi
"""


def archive(path):
    path.parent.mkdir(parents=True)
    with lzma.open(path, "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in (("npc", NPC), ("runtime_tests", TESTS), ("gpu_bench", BENCH)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))


def figures(folder):
    return [json.loads(line) for line in (folder / "figures.jsonl").read_text().splitlines()]


class Copy:
    def __init__(self, folder):
        self.folder = folder / "copy"
        for name in ("tests/gpu.sh", "tests/gpu_parts.sh", "benchmarks/gpu_report.py", "benchmarks/gpu_torch.py"):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        archive(self.folder / "target/gpu/npc.tar.xz")
        # Neither a GPU's tools nor a Python that has torch: only what the script may count on.
        tools = folder / "tools"
        tools.mkdir()
        for name in ("bash", "cat", "cp", "date", "dirname", "grep", "gzip", "head", "mkdir", "mktemp", "rm", "sed", "sleep", "tail", "tar",
                     "tee", "timeout", "tr"):
            (tools / name).symlink_to(shutil.which(name))
        (tools / "python3").write_text(f'#!/usr/bin/env bash\n[ "$2" != "import torch" ] && exec {sys.executable} "$@"\n')
        (tools / "python3").chmod(0o755)
        (tools / "compute-sanitizer").write_text(SANITIZER)
        (tools / "compute-sanitizer").chmod(0o755)
        self.tools = tools

    def call(self, *arguments, **variables):
        environment = {"PATH": str(self.tools), "HOME": str(self.folder), "TMPDIR": str(self.folder.parent)} | variables
        done = subprocess.run(["bash", str(self.folder / "tests/gpu.sh"), *arguments], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copy = Copy(folder)
        first, second = folder / "first", folder / "second"
        # The hanging test is given the few seconds that are left.
        status, said = copy.call("run", "tests", "memcheck", "train", OUT=str(first), NPC_SECONDS="34")
        assert status == 1 and "failed: tests memcheck train" in said, said
        assert {path.name for path in first.iterdir()} == RESULTS, said
        found = figures(first)
        outcome = {f["name"]: f["outcome"] for f in found if f["kind"] == "test"}
        assert outcome == {"a::on_a_gpu::passes": "passed", "a::on_a_gpu::fails": "failed", "a::on_a_gpu::hangs": "out of time"}, said
        assert [f["part"] for f in found if f["kind"] == "part" and f["outcome"] == "failed"] == ["tests", "memcheck", "train"], found
        # What is left of a call's time is nobody else's: parts after it say so and fail.
        assert "no time is left" in said, said
        assert found[0]["device"] == "A Card", found[0]
        # All parts, with time: one training and one measurement fail, the others are there.
        status, said = copy.call("run", "train", "memcheck", "initcheck", "bench", "torch-lists", OUT=str(second))
        assert status == 1 and "failed: train memcheck bench torch-lists" in said, said
        found = figures(second)
        assert {f["run"]: f["outcome"] for f in found if f["kind"] == "train"} == {
            "f32": "passed", "tf32": "failed", "bf16": "passed", "cnn": "passed"}, found
        assert [f["run"] for f in found if f["kind"] == "epoch"] == ["f32", "bf16", "cnn"], found
        # Without its summary a checker has checked nothing.
        checks = {(f["tool"], f["outcome"]) for f in found if f["kind"] == "check"}
        assert checks == {("memcheck", "out of time"), ("memcheck", "failed"), ("initcheck", "passed")}, found
        assert "Device not supported" in said and "imports torch" in said and any(f["kind"] == "copy" for f in found), said
        with tarfile.open(second / "logs.tar.gz") as logs:
            assert "logs/train-f32-debug.txt" in logs.getnames(), logs.getnames()
        status, said = copy.call("merge", str(first), str(second))
        assert status == 0, said
        report = (copy.folder / "target/gpu/merged/report.md").read_text()
        for wanted in ("A Card, copy 1,000 GB/s", "| 1 of 3; not: fails (failed), hangs (out of time) | **no** |",
                       "(50,000 images) | **no** |", "| training, tf32 | failed |", "| torch-gpt | not run |"):
            assert wanted in report, f"{wanted} is not in {report}"
        # Nothing is left behind: no binaries, neither in the folder that is copied about nor in the temporary one.
        assert sorted(path.name for path in (copy.folder / "target/gpu").iterdir()) == ["merged", "npc.tar.xz", "results"]
        assert sorted(path.name for path in folder.iterdir()) == ["copy", "first", "second", "tools"], list(folder.iterdir())
        status, said = copy.call("run", "nonsense")
        assert status == 2 and "'nonsense' is none of" in said, said
    print("tests/gpu.sh goes on after failures and brings everything back")


if __name__ == "__main__":
    main()
