"""`python -m runtime_py.bench_scan`: the selective scan in each of its forms, and the kernel's time against the length.

    python -m runtime_py.bench_scan
    python -m runtime_py.bench_scan --plot docs/scan_length.svg --json scan.json

At the released size (1,569 steps, 2 directions of 1,152 channels, 16 states), on the same random tensors, taking turns: the
sequential form in PyTorch, the graph forms lowered to XNNPACK, the fused kernel, and a plain C++ loop at full vector width. Their
last steps are compared before anything is timed. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import ctypes
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from export.arguments import ArgumentParser
from export.errors import BackendError, ExportError, command
from export.executorch_runtime import load_method, use_threads
from export.ops import native
from export.ops.selective_scan import selective_scan_fused, selective_scan_looped, selective_scan_sequential, selective_scan_unrolled
from runtime_py.files import check_writable, write_text
from runtime_py.load import available_cores, check_threads
from runtime_py.plots import lines
from runtime_py.timing import take_turns, timed

LENGTH, GROUPS, CHANNELS, STATES = 1569, 2, 1152, 16  # of a released VideoMamba block
LENGTHS = (512, 1024, 1569, 2048, 3072, 4096, 6144, 8192)
AGREE = 1e-4  # of the largest magnitude; the forms add in other orders
RUNS = 7
Scan = Callable[[], Tensor]


def scan_arguments(length: int) -> tuple[Tensor, ...]:
    """u, delta, A, B, C, D of a trained block's magnitudes."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    delta = nn.functional.softplus(normal(length, GROUPS, CHANNELS) - 3)
    A = -torch.arange(1.0, STATES + 1).expand(GROUPS, CHANNELS, STATES).contiguous()
    maps = [normal(length, GROUPS, STATES) for _ in range(2)]
    return normal(length, GROUPS, CHANNELS), delta, A, *maps, normal(GROUPS, CHANNELS)


class _Form(nn.Module):
    """A form that gives its last step only: ExecuTorch's Python runtime copies what a program returns, which is not to be timed."""

    def __init__(self, scan: Callable[..., Tensor], A: Tensor, D: Tensor):
        super().__init__()
        self.scan = scan
        self.register_buffer("A", A)
        self.register_buffer("D", D)

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return self.scan(u, delta, self.A, B, C, self.D)[-1:]


def lowered(scan: Callable[..., Tensor], arguments: tuple[Tensor, ...], folder: Path) -> Scan:
    """A form in a `.pte` file of its own, as the video encoder has it, weights being constants; the last step of its result."""
    from export.backends.executorch import ExecutorchBackend
    from export.components import Signature
    from export.manifest import TensorSpec

    u, delta, A, B, C, D = arguments
    inputs = [u, delta, B, C]
    specs = tuple(TensorSpec(name, tuple(x.shape), "float32", "") for name, x in zip(("u", "delta", "B", "C"), inputs))
    signature = Signature(specs, (TensorSpec("y", (1, *u.shape[1:]), "float32", ""),))
    path = folder / f"{id(scan)}-{len(u)}.pte"
    ExecutorchBackend().lower(_Form(scan, A, D).eval(), signature, [], path)
    method = load_method(path)
    return lambda: method(inputs)[0]


def plain_loop(arguments: tuple[Tensor, ...], threads: int, folder: Path) -> Scan:
    """The loop of `plain_scan.cpp`, compiled as the kernel is."""
    compiler, path = native.find_compiler(), folder / "plain_scan.so"
    source = Path(__file__).with_name("plain_scan.cpp")
    flags = [*native.OPTIMISED, *compiler.target, "-fPIC", "-shared", "-pthread", f"-I{native.SOURCES}"]
    ran = subprocess.run([*compiler.command, *flags, str(source), "-o", str(path)], capture_output=True, text=True)
    if ran.returncode:
        raise BackendError(f"{compiler.command[0]} cannot compile the plain loop: {native.first_error(ran.stderr)}; set CXX to another")
    u, delta, A, B, C, D = arguments
    y = torch.empty_like(u)
    sizes = [ctypes.c_size_t(size) for size in (*u.shape, A.shape[-1], threads)]
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (u, delta, A, B, C, D, y)]
    run = ctypes.CDLL(str(path)).plain_scan

    def scan() -> Tensor:
        run(*sizes, *pointers)
        return y

    return scan


def forms(threads: int, folder: Path) -> dict[str, float]:
    """Median seconds of each form; they take turns.

    Raises:
        ExportError: a form computes something else.
    """
    arguments = scan_arguments(LENGTH)
    scans: dict[str, Scan] = {
        "fused kernel": lowered(selective_scan_fused, arguments, folder),
        "plain C++ loop": plain_loop(arguments, threads, folder),
        "looped graph": lowered(selective_scan_looped, arguments, folder),
        "unrolled graph": lowered(selective_scan_unrolled, arguments, folder),
        "sequential": functools.partial(selective_scan_sequential, *arguments),
    }
    wanted = scans["sequential"]()[-1:]
    for name, scan in scans.items():
        error = float((scan()[-1:] - wanted).abs().max() / wanted.abs().max())
        if not error <= AGREE:
            raise ExportError(f"{name} is off by {error:.1e}: nothing was timed")
    return take_turns({name: timed(scan) for name, scan in scans.items()}, RUNS)


def lengths(folder: Path) -> dict[int, float]:
    """Median seconds of the kernel for each length."""
    scans = {str(length): timed(lowered(selective_scan_fused, scan_arguments(length), folder)) for length in LENGTHS}
    return {int(length): took for length, took in take_turns(scans, RUNS).items()}


def plot(seconds: dict[int, float]) -> str:
    """The kernel's milliseconds against the length, and the straight line through zero that fits them best, as SVG."""
    slope = sum(length * took for length, took in seconds.items()) / sum(length**2 for length in seconds)
    most = max(seconds)
    series = {"kernel": [(length, 1e3 * took) for length, took in seconds.items()], "-proportional": [(0, 0), (most, 1e3 * slope * most)]}
    return lines(series, "steps", f"milliseconds, 2 directions of {CHANNELS} channels, {STATES} states")


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.bench_scan", description=__doc__)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--plot", type=Path, metavar="F", help="write the times against the length to this SVG file")
    parser.add_argument("--json", type=Path, metavar="F", help="write the JSON object to this file too")
    args = parser.parse_args(argv)
    for path in (args.plot, args.json):
        if path is not None:
            check_writable(path)
    check_threads(args.threads)
    threads = args.threads or available_cores()
    torch.set_num_threads(threads)
    use_threads(threads)
    native.load()
    with tempfile.TemporaryDirectory() as folder:
        by_form, by_length = forms(threads, Path(folder)), lengths(Path(folder))
    kernel = by_form["fused kernel"]
    for name, took in by_form.items():
        print(f"{name:<16}{1e3 * took:>9.2f} ms {took / kernel:>7.2f} of the kernel's", file=sys.stderr)
    for length, took in by_length.items():
        print(f"{length:>6} steps {1e3 * took:>9.2f} ms {1e6 * took / length:>7.2f} us a step", file=sys.stderr)
    line = json.dumps({"forms_s": by_form, "lengths_s": by_length, "threads": threads})
    for path, text in ((args.plot, plot(by_length)), (args.json, line + "\n")):
        if path is not None:
            write_text(path, text)
    print(line)


if __name__ == "__main__":
    sys.exit(main())
