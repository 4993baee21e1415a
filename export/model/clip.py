"""CLIP's vision tower up to `hidden_states[-2]`, class token dropped: Mobile-VideoGPT's image encoder.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020); a ViT with
QuickGELU, `x * sigmoid(1.702 x)`. Shapes: B frames, P patches, C width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.config import ClipConfig
from export.model.preprocess import CLIP_MEAN, CLIP_STD, Normalize

HEAD_DIM = 64  # CLIP's head width; no tensor of the checkpoint tells it
QUICK_GELU = 1.702


class ClipAttention(nn.Module):
    """Plain multi-head attention, no mask."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            proj(x).view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)  # [B, H, T, C/H]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).reshape(batch, tokens, width))


class ClipLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.attention = ClipAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        h = self.fc1(self.norm2(x))
        return x + self.fc2(h * torch.sigmoid(QUICK_GELU * h))


class ClipVisionEncoder(nn.Module):
    """Frames to patch features: [B, 3, 224, 224] float RGB in 0..255 -> [B, P, C]."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.normalize = Normalize(CLIP_MEAN, CLIP_STD)
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.position_embedding = nn.Parameter(torch.zeros(1 + config.patches, config.width))
        self.pre_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.depth))

    def forward(self, pixels: Tensor) -> Tensor:
        normalized = self.normalize(pixels).to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(normalized).flatten(2).transpose(1, 2)  # [B, C, 14, 14] -> [B, P, C]
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.position_embedding  # [B, 1 + P, C]
        x = self.pre_norm(x)
        for layer in self.layers:
            x = layer(x)
        return x[:, 1:]
