"""The selective scan for training on a CPU: a C++ kernel with its gradient, ten times as fast as the graph form there.

The graph form (`unrolled.py`) trains anywhere; this one needs a compiler, and `training_scan` gives the former where there is none.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from export.errors import BackendError
from export.ops import native
from export.ops.selective_scan.unrolled import cache_width, selective_scan_unrolled

SOURCE = Path(__file__).with_name("training.cpp")
# Fast mathematics: gradients carry no infinities, and exp is then a vector's.
FLAGS = ("-std=c++20", "-O3", "-ffast-math", "-fopenmp-simd", "-fPIC", "-shared")


def training_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The same arguments, shapes and result as `selective_scan_sequential`, differentiable; float32 on a CPU through the kernel."""
    kernel = _kernel()
    if kernel is None or u.device.type != "cpu" or u.dtype != torch.float32:
        return selective_scan_unrolled(u, delta, A, B, C, D, width=cache_width(u.shape[1], u.shape[2], A.shape[-1]))
    return _Scan.apply(u, delta, A, B, C) + u * D


class _Scan(torch.autograd.Function):
    """The kernel's two passes; the states of all steps are kept between them, 4 L G D N bytes."""

    @staticmethod
    def forward(ctx, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        u, delta, B, C = (x.contiguous() for x in (u, delta, B, C))
        A = A.transpose(1, 2).contiguous()  # [G, N, D]
        sizes = _sizes(u, A)
        states, y = u.new_empty(u.shape[0], *A.shape), torch.empty_like(u)
        _kernel().selective_scan_forward(*sizes, *_pointers(u, delta, A, B, C, states, y))
        ctx.save_for_backward(u, delta, A, B, C, states)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        u, delta, A, B, C, states = ctx.saved_tensors
        du, ddelta, dA, dB, dC = torch.empty_like(u), torch.empty_like(u), torch.zeros_like(A), torch.empty_like(B), torch.empty_like(C)
        _kernel().selective_scan_backward(*_sizes(u, A), *_pointers(u, delta, A, B, C, states, dy.contiguous(), du, ddelta, dA, dB, dC))
        return du, ddelta, dA.transpose(1, 2), dB, dC


def _sizes(u: Tensor, A: Tensor) -> tuple[ctypes.c_size_t, ...]:
    return tuple(ctypes.c_size_t(size) for size in (*u.shape, A.shape[1]))


def _pointers(*tensors: Tensor) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)


@functools.cache
def _kernel() -> ctypes.CDLL | None:
    """The kernel, compiled at first use for this very processor and kept; None where it cannot be."""
    try:
        compiler = native.find_compiler()
    except BackendError:
        return None
    marks = hashlib.sha256(SOURCE.read_bytes() + repr((compiler, FLAGS)).encode()).hexdigest()[:16]
    name = f"training-{marks}.so"
    for folder in native.cache_folders():
        try:
            library = folder / name
            return ctypes.CDLL(str(library if library.is_file() else native.build_in(folder, name, compiler, [*FLAGS, str(SOURCE), "-lm"])))
        except (OSError, BackendError):
            continue
    return None
