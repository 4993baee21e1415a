"""Projectors: vision features to tokens of the decoder's width.

ET-Proj of Mobile-VideoGPT (arXiv 2503.21782): Linear - GELU - Linear, average pooling on the square token grid, and a 3x3
depthwise convolution added to its input as a positional encoding. `linear` and `mlpNx_gelu` do not pool.
Shapes: B rows of N tokens, D the decoder's width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from export.config import (
    CHUNK_KEY_FRAMES,
    CHUNKS,
    ETP,
    IMAGE_POOL_SIDE,
    KEY_FRAMES,
    VIDEO_FRAME_POOL_SIDE,
    VIDEO_POOL_SIDE,
    ModelConfig,
    ProjectorConfig,
)


class Mlp(nn.Module):
    """Linears with GELU (erf) between them; one linear for the `linear` projector."""

    def __init__(self, config: ProjectorConfig):
        super().__init__()
        widths = [config.in_width] + [config.out_width] * config.depth
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in zip(widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for i, linear in enumerate(self.linears):
            x = linear(F.gelu(x) if i else x)
        return x


class Projector(nn.Module):
    """[B, N, C] -> [B, pool_side^2, D] for etp, [B, N, D] for the others."""

    def __init__(self, config: ProjectorConfig, pool_side: int):
        super().__init__()
        self.config = config
        self.pool_side = pool_side
        self.mlp = Mlp(config)
        if config.kind == ETP:
            self.pool = nn.AdaptiveAvgPool2d(pool_side)
            self.position = nn.Conv2d(config.out_width, config.out_width, 3, padding=1, groups=config.out_width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x)  # [B, N, D]
        if self.config.kind != ETP:
            return x
        rows, tokens, width = x.shape
        side = int(tokens**0.5)
        grid = x.transpose(1, 2).reshape(rows, width, side, side)
        grid = self.pool(grid)  # [B, D, pool_side, pool_side]
        grid = self.position(grid) + grid
        return grid.flatten(2).transpose(1, 2)


class ImageProjector(Projector):
    """[16, P, C] patch features -> [visual tokens of all frames, D], in frame order."""

    def __init__(self, config: ModelConfig):
        super().__init__(config.image_projector, IMAGE_POOL_SIDE)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).flatten(0, 1)


class VideoProjector(Projector):
    """[8, P, C] video tokens -> [98, D] (2 x 196 without ET-Proj's pooling): pooled per frame, regrouped per chunk."""

    def __init__(self, config: ModelConfig):
        super().__init__(config.video_projector, VIDEO_POOL_SIDE)
        self.grid = config.videomamba.grid

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(pool_video_tokens(tokens, self.grid)).flatten(0, 1)


def pool_video_tokens(tokens: Tensor, grid: int) -> Tensor:
    """Each frame's grid averaged 2x2 to 7x7, frames regrouped per chunk: [8, P, C] -> [2, 4 * 49, C].

    The chunk's 196 tokens are later read as one 14x14 grid, as the release reads them.
    """
    width = tokens.shape[-1]
    frames = tokens.reshape(KEY_FRAMES, grid, grid, width).permute(0, 3, 1, 2)  # [8, C, 14, 14]
    pooled = F.avg_pool2d(frames, grid // VIDEO_FRAME_POOL_SIDE)  # [8, C, 7, 7]
    return pooled.permute(0, 2, 3, 1).reshape(CHUNKS, CHUNK_KEY_FRAMES * VIDEO_FRAME_POOL_SIDE**2, width)
