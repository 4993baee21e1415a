"""VideoMamba-M, bidirectional: Mobile-VideoGPT's video encoder.

Li et al., "VideoMamba: State Space Model for Efficient Video Understanding" (arXiv 2403.06977), as the release runs it: the
class token of the first frame only, then the patches of 8 frames in time-major order; Mamba-1 blocks that scan forward and,
with weights of their own, backward in time. Shapes: L tokens, C width, D inner width, N states, R rank of dt.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.config import KEY_FRAMES, VideoMambaConfig
from export.model.norm import RMSNorm
from export.model.preprocess import VIDEOMAMBA_MEAN, VIDEOMAMBA_STD, Normalize
from export.ops.selective_scan import selective_scan_sequential


class ScanDirection(nn.Module):
    """The weights of one direction of a block: causal convolution, input-dependent dt, B, C, and the decay A."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.conv = nn.Conv1d(config.d_inner, config.d_inner, config.d_conv, groups=config.d_inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(config.d_inner, config.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(config.dt_rank, config.d_inner)
        self.A_log = nn.Parameter(torch.zeros(config.d_inner, config.d_state))
        self.D = nn.Parameter(torch.ones(config.d_inner))


class MambaMixer(nn.Module):
    """[1, L, C] -> [1, L, C]: project, scan in both directions, gate, sum, project back.

    `scan` is the reference, step by step; training replaces it by the form that is fast to differentiate.
    """

    scan: Callable[..., Tensor] = staticmethod(selective_scan_sequential)

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.splits = [config.dt_rank, config.d_state, config.d_state]
        self.in_proj = nn.Linear(config.width, 2 * config.d_inner, bias=False)
        self.directions = nn.ModuleList([ScanDirection(config), ScanDirection(config)])  # forward, backward
        self.out_proj = nn.Linear(config.d_inner, config.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        x, z = self.in_proj(hidden[0]).chunk(2, dim=-1)  # [L, D] each
        scans = []
        for direction, source in zip(self.directions, (x, x.flip(0))):
            u = F.silu(direction.conv(source.T)[:, : x.shape[0]]).T  # [L, D]
            dt, B, C = direction.x_proj(u).split(self.splits, dim=-1)  # [L, R], [L, N], [L, N]
            delta = F.softplus(direction.dt_proj(dt).float())  # [L, D]
            scans.append((u, delta, B, C))
        u, delta, B, C = (torch.stack(both, dim=1) for both in zip(*scans))  # [L, 2, ...]
        A = -torch.exp(torch.stack([direction.A_log.float() for direction in self.directions]))  # [2, D, N]
        D = torch.stack([direction.D for direction in self.directions])  # [2, D]
        forward, backward = self.scan(u, delta, A, B, C, D).unbind(1)  # [L, D] each
        return self.out_proj((forward + backward.flip(0)) * F.silu(z))[None]


class MambaLayer(nn.Module):
    """Norm and mixer; the residual stream around it stays float32."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.norm = RMSNorm(config.width, config.rms_norm_eps)
        self.mixer = MambaMixer(config)


class VideoMambaEncoder(nn.Module):
    """Key frames to tokens: [1, 8, 3, 224, 224] float RGB in 0..255 -> [8, P, C], class token dropped."""

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.config = config
        self.normalize = Normalize(VIDEOMAMBA_MEAN, VIDEOMAMBA_STD)
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + config.patches, config.width))
        self.temporal_position_embedding = nn.Parameter(torch.zeros(1, KEY_FRAMES, config.width))
        self.layers = nn.ModuleList(MambaLayer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.rms_norm_eps)

    def embed(self, pixels: Tensor) -> Tensor:
        """[1, 8, 3, 224, 224] -> [1, 1 + 8 P, C]: patches with both position embeddings behind the class token."""
        normalized = self.normalize(pixels[0]).to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(normalized).flatten(2).transpose(1, 2)  # [8, P, C]
        patches = patches + self.position_embedding[:, 1:] + self.temporal_position_embedding.transpose(0, 1)
        class_token = self.class_token + self.position_embedding[:, :1]  # [1, 1, C], of the first frame only
        return torch.cat([class_token, patches.reshape(1, -1, self.config.width)], dim=1)

    def encode(self, hidden: Tensor) -> Tensor:
        """All layers over embedded tokens: [1, L, C] -> [1, L, C]."""
        residual = torch.zeros_like(hidden, dtype=torch.float32)
        for layer in self.layers:
            residual = residual + hidden
            hidden = layer.mixer(layer.norm(residual))
        return self.norm(residual + hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.encode(self.embed(pixels))
        return tokens[0, 1:].view(KEY_FRAMES, self.config.patches, self.config.width)
