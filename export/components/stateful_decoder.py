"""The decoder in the form that Core ML takes: static functions over a cache that is the model's state.

A function takes a fixed number of tokens, N; the host covers a prompt with the functions of a bundle and pads the last one. What
padding writes lies beyond the prompt, is attended to by padding alone, and is overwritten by the tokens that come next. Core ML needs
every size fixed, or falls back to slower paths; the state's slots are a multiple of 32 for the Neural
Engine, and a head's width is one in the released models.

Shapes: N tokens of a call, S slots of the cache, D width, H query heads, K key/value heads, G = H / K, E head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.components.base import Form, Signature
from export.components.norm import RMSNormInRange
from export.config import DecoderConfig, ModelConfig
from export.manifest import DynamicAxis, TensorSpec
from export.model.qwen2 import Attention, DecoderLayer, Qwen2Decoder, half_turn, rope_table
from export.ops.rows import read_rows, write_rows

SLOT_MULTIPLE = 32  # of the Neural Engine's state dimensions
HIDDEN = -40000.0  # added to what must not be attended to: float16 has no larger round number, and -inf turns rows of padding to NaN
CHUNKS = (512, 64, 1)  # tokens of the functions: prefill, a question, decoding


def slots(form: Form) -> int:
    """Slots of the cache: the context, and what the smallest function's padding writes behind its last token, rounded up."""
    return -(-(form.max_context + min(form.chunks) - 1) // SLOT_MULTIPLE) * SLOT_MULTIPLE


def function_name(tokens: int) -> str:
    return "decode" if tokens == 1 else f"prefill_{tokens}"


class StatefulAttention(nn.Module):
    """The eager attention over state buffers: x [N, D] at a position -> [N, D]."""

    def __init__(self, attention: Attention, config: DecoderConfig, capacity: int):
        super().__init__()
        self.config = config
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        cache = torch.zeros(1, config.kv_heads, capacity, config.head_dim)
        self.register_buffer("keys", cache, persistent=False)
        self.register_buffer("values", cache.clone(), persistent=False)
        self.register_buffer("half_turn", half_turn(config.head_dim), persistent=False)

    def forward(self, x: Tensor, position: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        config = self.config
        tokens, groups = x.shape[0], config.heads // config.kv_heads
        q = self.rotate(self.q_proj(x), config.heads, cos, sin)  # [N, H, E]
        k = self.rotate(self.k_proj(x), config.kv_heads, cos, sin).transpose(0, 1)[None]  # [1, K, N, E]
        v = self.v_proj(x).view(tokens, config.kv_heads, config.head_dim).transpose(0, 1)[None]
        keys, values = write_rows(self.keys, k, position), write_rows(self.values, v, position)  # [1, K, S, E]
        self.keys.copy_(keys)
        self.values.copy_(values)
        # A key head's queries stand below one another: no key or value is repeated.
        q = q.view(tokens, config.kv_heads, groups, config.head_dim).permute(1, 2, 0, 3).reshape(1, config.kv_heads, -1, config.head_dim)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)  # [1, K, G N, E]
        y = y.reshape(config.heads, tokens, config.head_dim).transpose(0, 1)  # [N, H, E]
        return self.o_proj(y.reshape(tokens, -1))

    def rotate(self, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, heads E] -> [N, heads, E], turned by the positions' angles [N, 1, E]."""
        x = x.view(-1, heads, self.config.head_dim)
        return x * cos + torch.matmul(x, self.half_turn) * sin


class StatefulLayer(nn.Module):
    """The eager layer around a stateful attention, [N, D] -> [N, D]."""

    def __init__(self, layer: DecoderLayer, config: DecoderConfig, capacity: int):
        super().__init__()
        self.attention_norm, self.ffn_norm = RMSNormInRange(layer.attention_norm), RMSNormInRange(layer.ffn_norm)
        self.attention, self.ffn = StatefulAttention(layer.attention, config, capacity), layer.ffn

    def forward(self, x: Tensor, position: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), position, cos, sin, mask)
        return x + self.ffn(self.ffn_norm(x))


class StatefulDecoder(nn.Module):
    """embeds [N, D], position [1] int32, last [1] int32 -> logits [V] of row `last`. N of 1 has no `last`."""

    def __init__(self, decoder: Qwen2Decoder, form: Form):
        super().__init__()
        capacity, config = slots(form), decoder.config
        self.groups = config.heads // config.kv_heads
        self.layers = nn.ModuleList(StatefulLayer(layer, config, capacity) for layer in decoder.layers)
        self.norm, self.head = RMSNormInRange(decoder.norm), decoder.head
        cos, sin = rope_table(config, capacity)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("slots", torch.arange(capacity, dtype=torch.int32)[None], persistent=False)  # [1, S]

    def forward(self, embeds: Tensor, position: Tensor, last: Tensor | None = None) -> Tensor:
        tokens = embeds.shape[0]
        cos, sin = (read_rows(table, position, tokens)[:, None] for table in (self.cos, self.sin))  # [N, 1, E]
        mask = self.mask(position, tokens, embeds.dtype)
        x = embeds
        for layer in self.layers:
            x = layer(x, position, cos, sin, mask)
        row = x if last is None else read_rows(x, last, 1)  # only one position meets the head
        return self.head(self.norm(row)).reshape(-1)

    def mask(self, position: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
        """What attention adds to its scores: 0 up to a token's own slot, HIDDEN beyond, [1, 1, G N, S] (decoding: [1, 1, 1, S]).

        Positions are compared as integers: float16 cannot tell 2,049 from 2,048.
        """
        own = position + torch.arange(tokens, dtype=torch.int32)  # [N]
        beyond = (self.slots > own[:, None]).to(dtype) * HIDDEN  # [N, S]
        if tokens == 1:
            return beyond[None, None]
        return beyond.repeat(self.groups, 1)[None, None]  # as the queries of one key head stand


def signature(config: ModelConfig, form: Form) -> Signature:
    sizes = ", ".join(str(tokens) for tokens in form.chunks)
    tokens: str | int = "tokens" if len(form.chunks) > 1 else form.chunks[0]
    text = f"embeddings of the new tokens, padded to a function's number: {sizes}"
    embeds = TensorSpec("embeds", (tokens, config.decoder.width), "float32", text)
    position = TensorSpec("position", (1,), form.index_dtype, "how many tokens the cache already holds")
    last = TensorSpec("last", (1,), form.index_dtype, "row of the last token that is no padding (not an input of decode)")
    logits = TensorSpec("logits", (config.decoder.vocab,), "float32", "logits of that token")
    axes = (DynamicAxis("tokens", min(form.chunks), max(form.chunks)),) if len(form.chunks) > 1 else ()
    return Signature((embeds, position, last), (logits,), axes)
