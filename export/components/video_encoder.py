"""`video_encoder`: 8 key frames to VideoMamba tokens.

The twin keeps the eager module's structure and names and rewrites what does not lower well: the scan (a loop), softplus (from
operators that delegates have, without losing small values), the flips (row gathers) and the mean of RMSNorm (a product).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.components.base import Component, Signature
from export.components.norm import RMSNormGraph
from export.config import IMAGE_SIZE, KEY_FRAMES, ModelConfig
from export.manifest import TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.videomamba import MambaMixer, VideoMambaEncoder
from export.ops.selective_scan import selective_scan_looped


def softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))` for any x without overflow, exact to a few ulp also where the result is small.

    With e = exp(-|x|) and w = fl(1 + e), log(1 + e) = log(w) + (e - (w - 1)) / w to first order in the rounding of w: the
    classic log1p correction. A plain log(1 + e) would lose half of the digits of a step size of 1e-4.
    """
    e = torch.exp(-torch.abs(x))
    w = 1 + e
    return torch.relu(x) + (torch.log(w) + (e - (w - 1)) / w)


class MambaMixerGraph(nn.Module):
    """[L, C] -> [L, C], the eager mixer with both directions side by side, [L, 2 D], from the convolution to the scan.

    Slices, concatenations and reshapes of whole rows stay inside the delegate; unbinding or stacking would cut it in pieces.
    """

    def __init__(self, mixer: MambaMixer, length: int):
        super().__init__()
        self.rank, self.states, _ = mixer.splits
        self.in_proj, self.directions, self.out_proj = mixer.in_proj, mixer.directions, mixer.out_proj
        both = list(mixer.directions)
        self.channels, self.kernel = both[0].conv.in_channels, both[0].conv.kernel_size[0]
        self.conv = nn.Conv2d(2 * self.channels, 2 * self.channels, (self.kernel, 1), groups=2 * self.channels)
        weight = torch.cat([direction.conv.weight for direction in both])[..., None]  # [2 D, 1, kernel, 1]
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        self.conv.bias = nn.Parameter(torch.cat([direction.conv.bias for direction in both]), requires_grad=False)
        for direction in both:
            del direction.conv  # its weights live on in the joint convolution
        A = -torch.exp(torch.stack([direction.A_log for direction in both]))  # [2, D, N]
        self.register_buffer("A", A)
        self.register_buffer("D", torch.stack([direction.D for direction in both]))  # [2, D]
        self.register_buffer("reversed", torch.arange(length - 1, -1, -1), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        length, D = hidden.shape[0], self.channels
        projected = self.in_proj(hidden)  # [L, 2 D]
        x, z = projected[:, :D], projected[:, D:]
        u = F.silu(self.convolve(torch.cat([x, x.index_select(0, self.reversed)], dim=1)))  # [L, 2 D]
        maps = [direction.x_proj(u_d) for direction, u_d in zip(self.directions, (u[:, :D], u[:, D:]))]  # 2 of [L, R + 2 N]
        delta = softplus(torch.cat([direction.dt_proj(m[:, : self.rank]) for direction, m in zip(self.directions, maps)], dim=1))
        B = torch.cat([m[:, self.rank : self.rank + self.states] for m in maps], dim=1)  # [L, 2 N]
        C = torch.cat([m[:, self.rank + self.states :] for m in maps], dim=1)
        u, delta, B, C = (t.reshape(length, 2, -1) for t in (u, delta, B, C))
        y = selective_scan_looped(u, delta, self.A, B, C, self.D).reshape(length, 2 * D)
        return self.out_proj((y[:, :D] + y[:, D:].index_select(0, self.reversed)) * F.silu(z))

    def convolve(self, x: Tensor) -> Tensor:
        """Causal depthwise convolution along time, [L, 2 D] -> [L, 2 D]."""
        image = F.pad(x, (0, 0, self.kernel - 1, 0)).reshape(1, -1, 1, x.shape[1]).permute(0, 3, 1, 2)  # [1, 2 D, L + kernel - 1, 1]
        return self.conv(image).permute(0, 2, 3, 1).reshape(x.shape)


class VideoEncoderGraph(nn.Module):
    """[1, 8, 3, 224, 224] -> [8, P, C]."""

    def __init__(self, encoder: VideoMambaEncoder):
        super().__init__()
        self.encoder = encoder
        self.norms = nn.ModuleList(RMSNormGraph(layer.norm) for layer in encoder.layers)
        self.mixers = nn.ModuleList(MambaMixerGraph(layer.mixer, encoder.config.sequence) for layer in encoder.layers)
        self.norm = RMSNormGraph(encoder.norm)
        del encoder.layers, encoder.norm  # their weights live on in the twins above

    def forward(self, pixels: Tensor) -> Tensor:
        residual = self.encoder.embed(pixels)[0]  # [L, C]
        hidden = None
        for norm, mixer in zip(self.norms, self.mixers):
            residual = residual if hidden is None else residual + hidden
            hidden = mixer(norm(residual))
        tokens = self.norm(residual + hidden)
        return tokens[1:].reshape(KEY_FRAMES, self.encoder.config.patches, self.encoder.config.width)


def signature(config: ModelConfig, max_context: int) -> Signature:
    pixels = TensorSpec("pixels", (1, KEY_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE), "float32", "RGB key frames in time order, 0 to 255")
    tokens = TensorSpec("tokens", (KEY_FRAMES, config.videomamba.patches, config.videomamba.width), "float32", "VideoMamba tokens")
    return Signature((pixels,), (tokens,))


def twin(model: MobileVideoGPT, max_context: int) -> nn.Module:
    return VideoEncoderGraph(model.video_encoder)


COMPONENT = Component("video_encoder", ("video_encoder",), signature, twin)
