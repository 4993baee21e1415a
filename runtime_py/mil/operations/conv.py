"""Convolutions over one to three spatial dimensions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from export.errors import PackageError
from runtime_py.mil.operations.windows import padded, pads, pairs, spatial
from runtime_py.mil.registry import Ints, operation

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _rank(x: Tensor, weight: Tensor) -> int:
    if x.dim() - 2 not in CONVOLUTIONS or weight.dim() != x.dim():
        raise PackageError(f"it convolves {list(x.shape)} with {list(weight.shape)}: MIL has one to three spatial dimensions")
    return x.dim() - 2


@operation("conv", returns="x")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, in, *d] with weight [out, in / groups, *k] and bias [out]: [n, out, *windows]."""
    rank = _rank(x, weight)
    strides, dilations = spatial(strides, rank, "strides"), spatial(dilations, rank, "dilations")
    kernel = [(k - 1) * dilation + 1 for k, dilation in zip(weight.shape[2:], dilations)]
    amounts = pads(pad_type, pad, x.shape[2:], kernel, strides)
    symmetric = all(before == after for before, after in amounts)
    return CONVOLUTIONS[rank](
        x if symmetric else padded(x, amounts),
        weight,
        bias,
        stride=strides,
        padding=[before for before, _ in amounts] if symmetric else 0,
        dilation=dilations,
        groups=groups,
    )


@operation("conv_transpose", returns="x")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, in, *d] with weight [in, out / groups, *k] and bias [out]: what `conv` of these options would have made x from.

    The products of all windows are cropped by `pad`, or evenly to size * stride (same). `output_shape` [n, out, *sizes] sets the
    sizes where several would do: it moves the end of the crop, beyond which there is only the bias.
    """
    rank = _rank(x, weight)
    strides, dilations = spatial(strides, rank, "strides"), spatial(dilations, rank, "dilations")
    kind = pad_type.lower()
    if kind not in ("valid", "same", "custom"):
        raise PackageError(f"its pad_type is {pad_type!r}: MIL has valid, same and custom here")
    if output_shape is not None and len(output_shape) != x.dim():
        raise PackageError(f"its output_shape is {output_shape}, and its input is {list(x.shape)}")
    y = TRANSPOSED[rank](x, weight, stride=strides, dilation=dilations, groups=groups)
    amounts = pairs(pad, rank)
    if kind != "custom" and any(before or after for before, after in amounts):
        raise PackageError(f"it has the pad {pad} beside the pad_type {pad_type}, which leaves no choice")
    crops = []
    for index, (before, after) in enumerate(amounts):
        full = y.shape[2 + index]
        size = full - before - after if kind != "same" else x.shape[2 + index] * strides[index]
        if output_shape is not None:
            size = output_shape[2 + index]
        if kind == "same":
            before = max(0, full - size) // 2
        crops.append((-before, size + before - full))
    y = padded(y, crops)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)
