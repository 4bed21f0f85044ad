"""Compiles kernels/cuda/*.cu to kernels/ptx/*.ptx with NVRTC and checks the result with ptxas. Needs neither GPU nor toolkit.

    python3 kernels/build_ptx.py            rebuild the PTX and the table of resources
    python3 kernels/build_ptx.py --check    fail when what is checked in differs from what the sources give

--tools DIR is where NVIDIA's compiler wheels are, or are installed to (default target/nvrtc). Every kernel must assemble for
every architecture of ARCHITECTURES without spilling; kernels/ptx/resources.txt records registers and shared memory.
"""

import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).resolve().parent
WHEELS = ["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cuda-nvcc-cu12==12.9.86", "nvidia-cuda-runtime-cu12==12.9.79"]
ARCHITECTURES = [70, 75, 80, 86, 89, 90, 100, 120]
TARGET = "compute_70"
# The oldest version that has what the kernels use, so that older drivers load them.
VERSION = "7.0"


def tools(folder):
    if not (folder / "nvidia" / "cuda_nvcc" / "bin" / "ptxas").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *WHEELS]
        subprocess.run(command, check=True)
    return folder


class Nvrtc:
    def __init__(self, folder):
        library = folder / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
        self.library = ctypes.CDLL(str(library))
        self.include = folder / "nvidia" / "cuda_runtime" / "include"

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} failed with {code}")

    def compile(self, path):
        program = ctypes.c_void_p()
        source = path.read_bytes()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, path.name.encode(), 0, None, None)
        options = [f"--gpu-architecture={TARGET}", "--std=c++17", f"-I{path.parent}", f"-I{self.include}"]
        packed = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        failed = self.library.nvrtcCompileProgram(program, len(options), packed)
        size = ctypes.c_size_t()
        if failed:
            self.call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            self.call("nvrtcGetProgramLog", program, log)
            sys.exit(log.value.decode())
        self.call("nvrtcGetPTXSize", program, ctypes.byref(size))
        ptx = ctypes.create_string_buffer(size.value)
        self.call("nvrtcGetPTX", program, ptx)
        return tidy(ptx.value.decode())


def tidy(ptx):
    """Without the compiler's banner, with our version, and with every rounding spelled out: the assembler may contract a product
    and a sum without it, and what is the same in two kernels would depend on the rest of them."""
    # The pragma tells newer assemblers which bytes of a wide load are used; older ones do not know it.
    unwanted = re.compile(r'//|\s*\.pragma "used_bytes_mask')
    lines = [line.rstrip() for line in ptx.splitlines() if not unwanted.match(line)]
    text = "\n".join(lines).strip("\n") + "\n"
    text = re.sub(r"\b(add|sub|mul)\.(f32|f64)\b", r"\1.rn.\2", text)
    return re.sub(r"^\.version .*$", f".version {VERSION}", text, flags=re.M)


def resources(ptxas, path):
    """One line a kernel and architecture family: registers and shared memory; an error for a spill."""
    table, spilled = {}, []
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def assemble(architecture):
            out = pathlib.Path(scratch) / f"{architecture}.cubin"
            command = [ptxas, "-v", f"-arch=sm_{architecture}", path, "-o", out]
            return subprocess.run(command, capture_output=True, text=True)

        for architecture, log in zip(ARCHITECTURES, pool.map(assemble, ARCHITECTURES)):
            if log.returncode != 0:
                sys.exit(f"{path.name} does not assemble for sm_{architecture}:\n{log.stderr}")
            for part in log.stderr.split("Compiling entry function ")[1:]:
                name = re.match(r"'([^']+)'", part).group(1)
                spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
                if spills and (spills.group(1), spills.group(2)) != ("0", "0"):
                    spilled.append(f"{name} spills on sm_{architecture}: {spills.group(0)}")
                registers = re.search(r"Used (\d+) registers", part).group(1)
                shared = re.search(r"(\d+) bytes smem", part)
                table.setdefault(name, []).append((int(registers), int(shared.group(1)) if shared else 0))
    if spilled:
        sys.exit("\n".join(spilled))
    lines = []
    for name, rows in sorted(table.items()):
        counts = " ".join(f"{registers:3}" for registers, _ in rows)
        lines.append(f"{name:36} {counts}   {max(shared for _, shared in rows):6}")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tools", type=pathlib.Path, default=FOLDER.parent / "target" / "nvrtc")
    arguments = parser.parse_args()
    folder = tools(arguments.tools)
    nvrtc = Nvrtc(folder)
    ptxas = folder / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    out = FOLDER / "ptx"
    out.mkdir(exist_ok=True)
    different = []

    def settle(path, text):
        if path.exists() and path.read_text() == text:
            return
        different.append(path.name)
        if not arguments.check:
            path.write_text(text)

    heads = " ".join(f"{a:3}" for a in ARCHITECTURES)
    table = [f"{'kernel':36} {heads}   {'shared':>6}", f"{'registers by sm_':36} {' '.join(['---'] * len(ARCHITECTURES))}    bytes"]
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted((FOLDER / "cuda").glob("*.cu")):
            ptx = nvrtc.compile(source)
            settle(out / f"{source.stem}.ptx", ptx)
            path = pathlib.Path(scratch) / f"{source.stem}.ptx"
            path.write_text(ptx)
            table += resources(ptxas, path)
    settle(out / "resources.txt", "\n".join(table) + "\n")
    if different and arguments.check:
        sys.exit(f"these are not what kernels/cuda gives: {', '.join(different)}; run python3 kernels/build_ptx.py")
    print("unchanged" if not different else f"written: {', '.join(different)}")


if __name__ == "__main__":
    main()
