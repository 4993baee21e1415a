"""Qwen2 decoder with a preallocated key/value cache.

Qwen team, "Qwen2.5 Technical Report" (arXiv 2412.15115): RMSNorm, rotary positions in half-split form, grouped-query
attention with bias on q, k, v, SwiGLU. Batch is 1 everywhere. Shapes: T new tokens, S cached ones, D width, H query heads,
K key/value heads, E head width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.config import DecoderConfig
from export.model.norm import RMSNorm


def rope_table(config: DecoderConfig, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions 0..positions-1, float32 [positions, E] each, both halves alike.

    Su et al., "RoFormer" (arXiv 2104.09864), with Qwen2's base.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents  # [E / 2]
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies  # [positions, E / 2]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions: x [..., E] with cos and sin broadcast to it; half-split form."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def half_turn(head_dim: int) -> Tensor:
    """The matrix R with x R = [-x2, x1] for the halves x1, x2 of a head: rotary positions without slicing, [E, E]."""
    half = head_dim // 2
    matrix = torch.zeros(head_dim, head_dim)
    matrix[torch.arange(half) + half, torch.arange(half)] = -1
    matrix[torch.arange(half), torch.arange(half) + half] = 1
    return matrix


class KeyValueCache:
    """Keys and values of all layers, [layers, K, capacity, E], and the rotary table of as many positions."""

    def __init__(self, config: DecoderConfig, capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
        shape = (config.layers, config.kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.cos, self.sin = (table.to(device, dtype) for table in rope_table(config, capacity))  # [capacity, E]
        self.capacity = capacity

    def update(self, layer: int, position: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v [K, T, E] at `position` and return everything up to them, [K, position + T, E]."""
        end = position + k.shape[1]
        self.keys[layer, :, position:end] = k
        self.values[layer, :, position:end] = v
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.q_proj = nn.Linear(config.width, config.heads * config.head_dim)
        self.k_proj = nn.Linear(config.width, config.kv_heads * config.head_dim)
        self.v_proj = nn.Linear(config.width, config.kv_heads * config.head_dim)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, layer: int, position: int, cache: KeyValueCache) -> Tensor:
        tokens = x.shape[0]
        q = self.q_proj(x).view(tokens, -1, self.config.head_dim).transpose(0, 1)  # [H, T, E]
        k = self.k_proj(x).view(tokens, -1, self.config.head_dim).transpose(0, 1)  # [K, T, E]
        v = self.v_proj(x).view(tokens, -1, self.config.head_dim).transpose(0, 1)
        k, v = cache.update(layer, position, rotate(k, cos, sin), v)  # [K, S, E]
        y = F.scaled_dot_product_attention(rotate(q, cos, sin)[None], k[None], v[None], attn_mask=mask, enable_gqa=True)
        return self.o_proj(y[0].transpose(0, 1).reshape(tokens, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.down_proj = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.rms_norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.width, config.rms_norm_eps)
        self.ffn = FeedForward(config)


class Qwen2Decoder(nn.Module):
    """Embeddings [T, D] at a position, with a cache, to the last position's logits [V]."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.rms_norm_eps)
        self.head = nn.Linear(config.width, config.vocab, bias=False)

    def forward(self, embeds: Tensor, position: int, cache: KeyValueCache) -> Tensor:
        tokens, end = embeds.shape[0], position + embeds.shape[0]
        cos, sin = cache.cos[position:end], cache.sin[position:end]  # [T, E]
        mask = None  # one new token sees the whole cache
        if tokens > 1:
            mask = torch.ones(tokens, end, dtype=torch.bool, device=embeds.device).tril(diagonal=position)  # [T, S]
        x = embeds
        for i, layer in enumerate(self.layers):
            x = x + layer.attention(layer.attention_norm(x), cos, sin, mask, i, position, cache)
            x = x + layer.ffn(layer.ffn_norm(x))
        return self.head(self.norm(x[-1]))
