"""Attention as one operation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from runtime_py.mil.registry import operation


@operation("scaled_dot_product_attention", returns="query", same=("query", "key", "value"))
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """query [*batch, l, e] over key [*batch, s, e] and value [*batch, s, v]: [*batch, l, v].

    `attn_mask`, broadcast to [*batch, l, s], says what takes part (bool) or is added to the scores. A query that may see nothing
    gives NaN, as the formula does.
    """
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)
