"""Attention with its key/value cache as one operator, for hosts that link this project's kernels (`operators.cpp`, `kernel.h`).

`cached_attention` takes queries, keys and values as one projection leaves them, side by side: it rotates them (rotary position
embedding, Su et al., arXiv 2104.09864, halves as pairs), puts keys and values into the cache, and gives the causal attention of the
new tokens. The cache's layout is the kernel's: of each key/value head 16 positions' keys lie together, element by element; values
are rows.

Cost behind P positions (H query heads over K groups, width E): 4 H E P operations for each new token and layer, and the cache read once.
`runtime_py.bench_decoder` times the decoder that is made of it.
"""

import torch
from torch import Tensor

from export.ops.library import define

KEY_LANES = 16  # positions whose keys lie together
KEY_TILE = 128  # a cache holds a multiple of so many positions


def cache_shapes(groups: int, positions: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the caches of keys and of values that hold at least `positions`."""
    positions = -(-positions // KEY_TILE) * KEY_TILE
    return (groups, positions // KEY_LANES, width, KEY_LANES), (groups, positions, width)


def rotation_table(cos: Tensor, sin: Tensor) -> Tensor:
    """The tables of `qwen2.rope_table`, [S, E] each with every angle twice, as one: [S, E], cosines of E / 2 angles, then sines."""
    half = cos.shape[1] // 2
    return torch.cat([cos[:, :half], sin[:, :half]], dim=1).contiguous()


def _cached_attention(qkv: Tensor, rotation: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
    """What the operator computes.

    Args:
        qkv: [T, (H + 2 K) E] queries, keys and values before rotation; float32.
        rotation: [S, E], see `rotation_table`.
        keys: [K, S / 16, E, 16], values: [K, S, E], float32 or float16; written in place.
        position: positions that the cache holds already.

    Returns:
        [T, H E] float32.
    """
    groups, length, width = values.shape
    tokens = qkv.shape[0]
    q, k, v = qkv.split([qkv.shape[1] - 2 * groups * width, groups * width, groups * width], dim=1)
    new = torch.arange(position, position + tokens)
    turned = _rotate(k.reshape(tokens, groups, width), rotation[new])  # [T, K, E]
    keys[:, new // KEY_LANES, :, new % KEY_LANES] = turned.to(keys.dtype)
    values[:, new] = v.reshape(tokens, groups, width).transpose(0, 1).to(values.dtype)
    q = _rotate(q.reshape(tokens, -1, width), rotation[new]).unflatten(1, (groups, -1)).permute(1, 2, 0, 3)  # [K, H / K, T, E]
    seen = position + tokens
    rows = keys.transpose(2, 3).reshape(groups, length, width)[:, :seen].float()  # [K, P, E]
    scores = q @ rows.transpose(1, 2)[:, None] * width**-0.5  # [K, H / K, T, P]
    hidden = torch.arange(seen)[None] > new[:, None]
    shares = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return (shares @ values[:, None, :seen].float()).permute(2, 0, 1, 3).reshape(tokens, -1)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """[T, heads, E] turned by the positions' angles, [T, E]."""
    cos, sin = rotation[:, None].chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


cached_attention = define(
    "cached_attention",
    "Tensor qkv, Tensor rotation, Tensor(a!) keys, Tensor(b!) values, SymInt position",
    eager=_cached_attention,
    shape=lambda qkv, rotation, keys, values, position: qkv.new_empty(qkv.shape[0], qkv.shape[1] - 2 * values.shape[0] * values.shape[2]),
    results="(c!)",
)
