"""`decoder`: embeddings and a position to the last position's logits, with the key/value cache inside the graph.

One graph serves prefill of any length and decoding: the number of tokens is a dynamic axis. Attention with its cache is this
project's operator, or ExecuTorch's stock ones (`llama::custom_sdpa`, `llama::update_cache`), which take the cache as [1, S, K, E]
and group the query heads themselves; whoever traces a graph with these imports them first.
"""

import torch
from torch import Tensor, nn

from export.components import stateful_decoder
from export.components.base import Component, Form, Signature
from export.components.norm import RMSNormGraph
from export.config import DecoderConfig, ModelConfig
from export.manifest import DynamicAxis, TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.qwen2 import Attention, DecoderLayer, Qwen2Decoder, half_turn, rope_table
from export.ops.attention import cache_shapes, cached_attention, rotation_table

Angles = tuple[Tensor, ...]


class StockAttention(nn.Module):
    """The eager attention with the cache as buffers, in stock operators: x [T, D] at position p -> [T, D]."""

    def __init__(self, attention: Attention, config: DecoderConfig, max_context: int):
        super().__init__()
        self.config = config
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        cache = torch.zeros(1, max_context, config.kv_heads, config.head_dim)
        self.register_buffer("keys", cache, persistent=False)
        self.register_buffer("values", cache.clone(), persistent=False)
        self.register_buffer("half_turn", half_turn(config.head_dim), persistent=False)

    @staticmethod
    def angles(tables: Angles, start: int, tokens: int) -> Angles:
        """Of the new tokens, cosines and sines [1, T, 1, E]; `tables` [S, E] each."""
        return tuple(table.narrow(0, start, tokens)[None, :, None] for table in tables)

    def forward(self, x: Tensor, position: int, angles: Angles) -> Tensor:
        config, (cos, sin) = self.config, angles
        q = self.rotate(self.q_proj(x), config.heads, cos, sin)  # [1, T, H, E]
        k = self.rotate(self.k_proj(x), config.kv_heads, cos, sin)  # [1, T, K, E]
        v = self.v_proj(x).view(1, -1, config.kv_heads, config.head_dim)
        torch.ops.llama.update_cache(k, self.keys, position)
        torch.ops.llama.update_cache(v, self.values, position)
        y = torch.ops.llama.custom_sdpa(q, self.keys, self.values, position, None, 0.0, True)  # causal, [1, T, H, E]
        return self.o_proj(y.view(-1, config.heads * config.head_dim))

    def rotate(self, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
        """[T, heads E] -> [1, T, heads, E], turned by the positions' angles."""
        turned = torch.mm(x.view(-1, self.config.head_dim), self.half_turn)  # [T heads, E]
        shape = (1, -1, heads, self.config.head_dim)
        return x.view(shape) * cos + turned.view(shape) * sin


class FusedAttention(nn.Module):
    """The same in this project's operator. `half`: the cache is float16."""

    def __init__(self, attention: Attention, config: DecoderConfig, max_context: int, half: bool):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        dtype = torch.float16 if half else torch.float32
        for name, shape in zip(("keys", "values"), cache_shapes(config.kv_heads, max_context, config.head_dim)):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype), persistent=False)

    @staticmethod
    def angles(tables: Angles, start: int, tokens: int) -> Angles:
        """The table [S, E] as it is: the operator finds the new tokens' rows."""
        return tables

    def forward(self, x: Tensor, position: int, angles: Angles) -> Tensor:
        qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=1)
        return self.o_proj(cached_attention(qkv, *angles, self.keys, self.values, position))


class DecoderLayerGraph(nn.Module):
    """The eager layer around a cached attention, [T, D] -> [T, D]."""

    def __init__(self, layer: DecoderLayer, attention: StockAttention | FusedAttention):
        super().__init__()
        self.attention_norm, self.ffn_norm = RMSNormGraph(layer.attention_norm), RMSNormGraph(layer.ffn_norm)
        self.attention, self.ffn = attention, layer.ffn

    def forward(self, x: Tensor, position: int, angles: Angles) -> Tensor:
        x = x + self.attention(self.attention_norm(x), position, angles)
        return x + self.ffn(self.ffn_norm(x))


class DecoderGraph(nn.Module):
    """embeds [T, D], position [1] int64 -> logits [V] of the last position."""

    def __init__(self, decoder: Qwen2Decoder, form: Form):
        super().__init__()
        config, self.max_context = decoder.config, form.max_context
        tables: Angles = rope_table(config, form.max_context)
        if form.attention == "fused":
            tables = (rotation_table(*tables),)
            attentions = [FusedAttention(layer.attention, config, form.max_context, form.half_cache) for layer in decoder.layers]
        else:
            attentions = [StockAttention(layer.attention, config, form.max_context) for layer in decoder.layers]
        self.layers = nn.ModuleList(DecoderLayerGraph(layer, attention) for layer, attention in zip(decoder.layers, attentions))
        self.norm, self.head = RMSNormGraph(decoder.norm), decoder.head
        self.tables = [f"angles_{i}" for i in range(len(tables))]
        for name, table in zip(self.tables, tables):
            self.register_buffer(name, table, persistent=False)

    def forward(self, embeds: Tensor, position: Tensor) -> Tensor:
        tokens, start = embeds.shape[0], position[0].item()
        torch._check(start >= 0)
        torch._check(start + tokens <= self.max_context)
        angles = self.layers[0].attention.angles(tuple(getattr(self, name) for name in self.tables), start, tokens)
        x = embeds
        for layer in self.layers:
            x = layer(x, start, angles)
        last = x.narrow(0, tokens - 1, 1)  # only the last position meets the head
        return self.head(self.norm(last)).reshape(-1)


def signature(config: ModelConfig, form: Form) -> Signature:
    if form.decoder == "coreml_state":
        return stateful_decoder.signature(config, form)
    embeds = TensorSpec("embeds", ("tokens", config.decoder.width), "float32", "embeddings of the new tokens")
    position = TensorSpec("position", (1,), form.index_dtype, "how many tokens the cache already holds")
    logits = TensorSpec("logits", (config.decoder.vocab,), "float32", "logits of the last new token")
    return Signature((embeds, position), (logits,), (DynamicAxis("tokens", 1, min(form.max_context, form.most_tokens)),))


def twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    if form.decoder == "coreml_state":
        return stateful_decoder.StatefulDecoder(model.decoder, form)
    return DecoderGraph(model.decoder, form)


COMPONENT = Component("decoder", ("decoder",), signature, twin)
