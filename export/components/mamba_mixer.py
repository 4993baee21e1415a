"""The mixer of a VideoMamba block in the forms that lower: as stock operators, or around this project's own.

Shapes: L tokens, C width, D inner width, N states, R rank of dt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.videomamba import MambaMixer
from export.ops.causal_conv import causal_conv
from export.ops.selective_scan import bidirectional_scan, selective_scan_looped, selective_scan_unrolled


def softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))` for any x without overflow, exact to a few ulp also where the result is small.

    With e = exp(-|x|) and w = fl(1 + e), log(1 + e) = log(w) + (e - (w - 1)) / w to first order in the rounding of w: the
    classic log1p correction. A plain log(1 + e) would lose half of the digits of a step size of 1e-4.
    """
    e = torch.exp(-torch.abs(x))
    w = 1 + e
    return torch.relu(x) + (torch.log(w) + (e - (w - 1)) / w)


class _Mixer(nn.Module):
    """What both forms keep of the eager mixer: its projections under their names, decay and skip weights of both directions."""

    def __init__(self, mixer: MambaMixer):
        super().__init__()
        self.rank, self.states, _ = mixer.splits
        self.in_proj, self.directions, self.out_proj = mixer.in_proj, mixer.directions, mixer.out_proj
        both = list(mixer.directions)
        self.channels, self.kernel = both[0].conv.in_channels, both[0].conv.kernel_size[0]
        A, D = -torch.exp(torch.stack([direction.A_log for direction in both])), torch.stack([direction.D for direction in both])
        self.A, self.D = (nn.Parameter(x.detach(), requires_grad=False) for x in (A, D))  # [2, D, N], [2, D]
        for direction in both:
            del direction.A_log, direction.D  # they live on in the two above


class StockMixer(_Mixer):
    """[L, C] -> [L, C] in stock operators, both directions side by side, [L, 2 D], from the convolution to the scan.

    Slices, concatenations and reshapes of whole rows stay inside the delegate; unbinding or stacking would cut it in pieces.
    """

    def __init__(self, mixer: MambaMixer, length: int, scan: Callable[..., Tensor]):
        super().__init__(mixer)
        self.scan = scan
        both = list(mixer.directions)
        self.conv = nn.Conv2d(2 * self.channels, 2 * self.channels, (self.kernel, 1), groups=2 * self.channels)
        weight = torch.cat([direction.conv.weight for direction in both])[..., None]  # [2 D, 1, kernel, 1]
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        self.conv.bias = nn.Parameter(torch.cat([direction.conv.bias for direction in both]), requires_grad=False)
        for direction in both:
            del direction.conv  # its weights live on in the joint convolution
        self.register_buffer("reversed", torch.arange(length - 1, -1, -1), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        length, D, R, N = hidden.shape[0], self.channels, self.rank, self.states
        projected = self.in_proj(hidden)  # [L, 2 D]
        x, z = projected[:, :D], projected[:, D:]
        u = F.silu(self.convolve(torch.cat([x, x.index_select(0, self.reversed)], dim=1)))  # [L, 2 D]
        maps = [direction.x_proj(u_d) for direction, u_d in zip(self.directions, (u[:, :D], u[:, D:]))]  # 2 of [L, R + 2 N]
        delta = softplus(torch.cat([direction.dt_proj(m[:, :R]) for direction, m in zip(self.directions, maps)], dim=1))
        B_and_C = torch.cat(maps, dim=1).reshape(length, 2, R + 2 * N)
        u, delta = u.reshape(length, 2, D), delta.reshape(length, 2, D)
        y = self.scan(u, delta, self.A, B_and_C[:, :, R : R + N], B_and_C[:, :, R + N :], self.D).reshape(length, 2 * D)
        # Whole rows are reversed, though half of each would do: a slice before the gather would be a delegate of its own.
        backward = y.index_select(0, self.reversed)[:, D:]
        return self.out_proj((y[:, :D] + backward) * F.silu(z))

    def convolve(self, x: Tensor) -> Tensor:
        """Causal depthwise convolution along time, [L, 2 D] -> [L, 2 D]."""
        image = F.pad(x, (0, 0, self.kernel - 1, 0)).reshape(1, -1, 1, x.shape[1]).permute(0, 3, 1, 2)  # [1, 2 D, L + kernel - 1, 1]
        return self.conv(image).permute(0, 2, 3, 1).reshape(x.shape)


class FusedMixer(_Mixer):
    """[L, C] -> [L, C] around this project's operators: between two delegated projections lies one operator, and no copy."""

    def __init__(self, mixer: MambaMixer):
        super().__init__(mixer)
        both = list(mixer.directions)
        for name, direction in zip(("forward", "backward"), both):
            self.register_buffer(f"weight_{name}", direction.conv.weight.detach()[:, 0].T.contiguous())  # [kernel, D]
            self.register_buffer(f"bias_{name}", direction.conv.bias.detach().clone())  # [D]
            del direction.conv

    def forward(self, hidden: Tensor) -> Tensor:
        projected = self.in_proj(hidden)  # [L, 2 D]
        u = causal_conv(projected, self.weight_forward, self.bias_forward, False)  # [L, D]
        u_backward = causal_conv(projected, self.weight_backward, self.bias_backward, True)
        forward, backward = self.directions
        maps, maps_backward = forward.x_proj(u), backward.x_proj(u_backward)  # [L, R + 2 N] each
        delta, delta_backward = forward.dt_proj(maps[:, : self.rank]), backward.dt_proj(maps_backward[:, : self.rank])  # [L, D]
        y = bidirectional_scan(u, u_backward, delta, delta_backward, maps, maps_backward, projected, self.A, self.D)
        return self.out_proj(y)


def mixer_graph(mixer: MambaMixer, length: int, scan: str) -> nn.Module:
    """The exportable twin of `mixer` for `length` tokens with the form of the scan that a target takes (`Form.scan`)."""
    if scan == "fused":
        return FusedMixer(mixer)
    return StockMixer(mixer, length, {"looped": selective_scan_looped, "unrolled": selective_scan_unrolled}[scan])
