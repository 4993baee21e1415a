"""`driver.cpp` compiled for one kind of processor, and run on tensors: the kernels' headers without ExecuTorch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from export.errors import BackendError
from export.ops.native import OPTIMISED, STANDARD, find_compiler

SOURCE = Path(__file__).with_name("driver.cpp")
SANITIZED = (STANDARD, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARM_PACKAGES = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}  # Debian's packages
ARM_VARIANTS = {"aarch64": (), "aarch64+dotprod": ("-march=armv8.2-a+dotprod",)}  # the second is what phones since 2018 have
LIMIT_S = 300


def no_tool(reason: str) -> NoReturn:
    """Skip, or fail where continuous integration promises the tool."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (the environment variable CI is set: a missing tool is a failure)")
    pytest.skip(reason)


def host_variants() -> list[str]:
    """What this machine's processor can run: vectors of every width that it has."""
    if platform.machine() != "x86_64":
        return ["native", "sanitized"]
    cpuinfo = Path("/proc/cpuinfo")
    has = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    wider = [name for name, needs in (("avx512", {"avx512bw", "avx512dq", "avx512vl"}), ("avx2", {"avx2", "f16c"})) if needs <= has]
    return ["native", *wider, "sse2", "sanitized"]


@dataclass(frozen=True)
class Driver:
    variant: str
    command: tuple[str, ...]

    @property
    def slow(self) -> bool:
        """Emulated, or with checks at every access: tens of times slower."""
        return self.variant in (*ARM_VARIANTS, "sanitized")

    def run(self, *arguments: object, tensors: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Float32 tensors in, one of `shape` out."""
        sent = b"".join(t.float().contiguous().numpy().tobytes() for t in tensors)
        ran = subprocess.run([*self.command, *map(str, arguments)], input=sent, capture_output=True, timeout=LIMIT_S)
        assert ran.returncode == 0, ran.stderr.decode()
        return torch.from_numpy(np.frombuffer(ran.stdout, np.float32).copy()).reshape(shape)

    def scan(self, directions: list[list[Tensor]], order: str, *, softplus=False, gate: Tensor | None = None, offset=0) -> Tensor:
        """For each letter of `order`, f or b: u and delta [L, D], B and C [L, N], A [D, N], D [D], in the order of time -> [L, D]."""
        length, channels = directions[0][0].shape
        tensors = [t for u, delta, B, C, A, D in directions for t in (u, delta, torch.cat([B, C], 1), A, D)]
        flags = (int(softplus), int(gate is not None), offset)
        sizes = (length, channels, directions[0][2].shape[1])
        return self.run("scan", *sizes, order, *flags, tensors=tensors + ([] if gate is None else [gate]), shape=(length, channels))

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor, backward: bool, offset=0) -> Tensor:
        """[L, D], [K, D], [D] -> [L, D], after SiLU."""
        sizes = (*x.shape, weight.shape[0])
        return self.run("conv", *sizes, int(backward), offset, tensors=[x, weight, bias], shape=tuple(x.shape))

    def attention(self, qkv: Tensor, rotation: Tensor, groups: int, half: bool, calls: list[int], offset=0) -> Tensor:
        """[T, (H + 2 K) E], [S, E], in as many calls of so many tokens -> [T, H E]."""
        width = rotation.shape[1]
        heads = qkv.shape[1] // width - 2 * groups
        sizes = (heads, groups, width, rotation.shape[0], int(half), offset)
        return self.run("attention", *sizes, *calls, tensors=[qkv, rotation], shape=(len(qkv), heads * width))

    def linear(self, x: Tensor, weight: Tensor, scale: Tensor, bias, norm, residual, gated: bool, epsilon: float, offset=0) -> Tensor:
        """As the operator `linear_int4`; offsets are of floats."""
        outputs = weight.shape[0] * weight.shape[2]
        flags = [int(part is not None) for part in (bias, norm, residual)]
        tensors = [x, weight.float(), scale.view(torch.int16).to(torch.int32).remainder(65536).float()]
        tensors += [part for part in (bias, norm, residual) if part is not None]
        shape = (len(x), outputs // 2 if gated else outputs)
        return self.run("linear", *x.shape, outputs, *flags, int(gated), epsilon, offset, tensors=tensors, shape=shape)


def build(variant: str, folder: Path) -> Driver:
    """Compile `driver.cpp` for "native", "avx512" (the first, without products of bytes and bfloat16), "avx2", "sse2", "sanitized" (the
    host's), or for "aarch64" and "aarch64+dotprod" (run by an emulator)."""
    out = folder / f"driver-{variant}"
    if variant in ARM_VARIANTS:
        missing = [package for tool, package in ARM_PACKAGES.items() if not shutil.which(tool)]
        if missing:
            no_tool(f"kernels on Arm need the Debian packages {' and '.join(missing)}: apt-get install {' '.join(missing)}")
        compiled = subprocess.run(
            ["aarch64-linux-gnu-g++", "-static", *OPTIMISED, *ARM_VARIANTS[variant], SOURCE, "-o", out], capture_output=True, text=True
        )
        assert compiled.returncode == 0, compiled.stderr
        return Driver(variant, ("qemu-aarch64", str(out)))
    try:
        compiler = find_compiler()
    except BackendError as error:
        no_tool(f"the kernels themselves cannot be tested here: {error}")
    flags = {
        "native": (*OPTIMISED, *compiler.target),
        "avx512": (*OPTIMISED, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
        "avx2": (*OPTIMISED, "-mavx2", "-mfma", "-mf16c"),
        "sse2": OPTIMISED,
        "sanitized": SANITIZED,
    }[variant]
    compiled = subprocess.run([*compiler.command, *flags, SOURCE, "-o", out], capture_output=True, text=True)
    if compiled.returncode and variant == "sanitized" and re.search("asan|ubsan|sanitize", compiled.stderr):
        no_tool(f"{compiler.command[0]} comes without its sanitizers' libraries (Debian: apt-get install libclang-rt-dev for clang++)")
    assert compiled.returncode == 0, compiled.stderr
    return Driver(variant, (str(out),))
