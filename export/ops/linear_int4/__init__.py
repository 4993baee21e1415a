"""A linear layer with int4 weights as one operator, for hosts that link this project's kernels (`operators.cpp`, `kernel.h`).

`linear_int4` takes what stands around a decoder's linears with it: the RMS norm before, bias, gate (SwiGLU) and residual after. Its
activations are quantized to int8 in groups of 32, each with a scale of its own. The weights are read from the file as they lie in
it: nothing is unpacked or copied when a program is loaded.

Cost: 2 I O operations a row; one row takes as long as its weights take to come from memory. `runtime_py.bench_decoder` times the decoder
that is made of it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from export.ops.library import define

GROUP, CHANNELS = 32, 16  # inputs that share a scale; output channels whose weights lie together


def pack(integers: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Integers -8..7, int8 [O, I], and scales [O, I / 32] as the operator reads them.

    Returns:
        uint8 [O / 16, I / 8, 16, 4]: byte j of a channel holds inputs j and 4 + j of 8, each plus 8; float16 [O / 16, I / 32, 16].
    """
    outputs, inputs = integers.shape
    nibbles = (integers + 8).to(torch.uint8).reshape(outputs // CHANNELS, CHANNELS, inputs // 8, 2, 4)
    packed = nibbles[..., 0, :] | nibbles[..., 1, :] << 4  # [O / 16, 16, I / 8, 4]
    scales = scale.to(torch.float16).reshape(outputs // CHANNELS, CHANNELS, -1)
    return packed.transpose(1, 2).contiguous(), scales.transpose(1, 2).contiguous()


def unpack(weight: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight [O, I] that packed integers and scales stand for."""
    nibbles = torch.stack([weight & 15, weight >> 4], dim=-2).to(torch.int8) - 8  # [O / 16, I / 8, 16, 2, 4]
    blocks, eights, channels = weight.shape[:3]
    integers = nibbles.permute(0, 2, 1, 3, 4).reshape(blocks * channels, eights * 8 // GROUP, GROUP)
    return (integers.float() * scale.transpose(1, 2).reshape(blocks * channels, -1, 1).float()).flatten(1)


def _quantized(x: Tensor) -> Tensor:
    """Activations [T, I] rounded to 8 bits in groups of 32."""
    groups = x.unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.round(groups / torch.where(scale > 0, scale, 1.0)) * scale).flatten(-2)


def _linear_int4(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    norm: Tensor | None,
    residual: Tensor | None,
    layers: list[int],
    gated: bool,
    epsilon: float,
) -> Tensor:
    """What the operator computes.

    Args:
        x: [T, I] float32. norm: [I], by which x is weighed after RMS normalisation with `epsilon`, or None.
        weight, scale: see `pack`. bias: [O] or None.
        residual: added to the result, or None.
        layers: the outputs of the layers that stand in `weight` one after the other; their sum is O. For readers of a file.
        gated: the first half of the outputs goes through SiLU and multiplies the second.

    Returns:
        [T, O], or [T, O / 2] where it is gated.
    """
    if norm is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * norm
    y = F.linear(_quantized(x), unpack(weight, scale), bias)
    if gated:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    return y if residual is None else y + residual


def _shape(x: Tensor, weight: Tensor, scale: Tensor, bias, norm, residual, layers, gated: bool, epsilon: float) -> Tensor:
    outputs = weight.shape[0] * CHANNELS
    return x.new_empty(x.shape[0], outputs // 2 if gated else outputs)


linear_int4 = define(
    "linear_int4",
    "Tensor x, Tensor weight, Tensor scale, Tensor? bias, Tensor? norm, Tensor? residual, int[] layers, bool gated, float epsilon",
    eager=_linear_int4,
    shape=_shape,
)
