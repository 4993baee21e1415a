"""The decoder whose linears are all int4, in this project's operators alone: five a layer, and one for the head.

Norms, biases, gate and residuals are part of the linears around them, projections of one input are one matrix. The graph, its inputs
and its cache are `DecoderGraph`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from export.components.decoder import DecoderGraph, DecoderLayerGraph, FusedAttention
from export.components.norm import RMSNormGraph
from export.ops.attention import cached_attention
from export.ops.linear_int4 import CHANNELS, GROUP, linear_int4, pack

Rounded = Callable[[str], tuple[Tensor, Tensor]]  # a layer's name -> integers [O, I] and scales [O, I / 32]


class Int4Linear(nn.Module):
    """Layers of one input as one matrix, with what stands around them: x [T, I] -> [T, O], or [T, O / 2] where `gated`."""

    def __init__(
        self, rounded: Sequence[tuple[Tensor, Tensor]], biases: Sequence[Tensor] = (), norm: RMSNormGraph | None = None, gated: bool = False
    ):
        super().__init__()
        self.layers, self.gated = [integers.shape[0] for integers, _ in rounded], gated
        weight, scale = pack(*(torch.cat(parts) for parts in zip(*rounded)))
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", torch.cat(list(biases)).detach() if biases else None)
        self.register_buffer("norm", norm.weight.detach() if norm else None)
        self.epsilon = norm.eps if norm else 0.0

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return linear_int4(x, self.weight, self.scale, self.bias, self.norm, residual, self.layers, self.gated, self.epsilon)


class Cache(nn.Module):
    """A layer's keys and values."""

    def __init__(self, attention: FusedAttention):
        super().__init__()
        self.register_buffer("keys", attention.keys, persistent=False)
        self.register_buffer("values", attention.values, persistent=False)


class Int4DecoderLayer(nn.Module):
    """x [T, D] at a position -> [T, D]."""

    def __init__(self, layer: DecoderLayerGraph, rounded: Rounded):
        super().__init__()
        attention, ffn = layer.attention, layer.ffn
        names = ("q_proj", "k_proj", "v_proj")
        biases = [getattr(attention, name).bias for name in names]
        self.attention = Cache(attention)
        self.qkv = Int4Linear([rounded(f"attention.{name}") for name in names], biases, norm=layer.attention_norm)
        self.out = Int4Linear([rounded("attention.o_proj")])
        self.gate_up = Int4Linear([rounded("ffn.gate_proj"), rounded("ffn.up_proj")], norm=layer.ffn_norm, gated=True)
        self.down = Int4Linear([rounded("ffn.down_proj")])
        del attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, ffn.gate_proj, ffn.up_proj, ffn.down_proj

    def forward(self, x: Tensor, position: int, rotation: Tensor) -> Tensor:
        y = cached_attention(self.qkv(x), rotation, self.attention.keys, self.attention.values, position)
        x = self.out(y, residual=x)
        return self.down(self.gate_up(x), residual=x)


class Int4DecoderGraph(nn.Module):
    """embeds [T, D], position [1] int64 -> logits [V] of the last position. Takes the layers out of `graph` one by one, so that no more
    than one is there twice."""

    def __init__(self, graph: DecoderGraph, rounded: Rounded):
        super().__init__()
        self.max_context = graph.max_context
        (name,) = graph.tables
        self.register_buffer("rotation", getattr(graph, name), persistent=False)
        layers = []
        for i, layer in enumerate(graph.layers):
            layers.append(Int4DecoderLayer(layer, lambda name, i=i: rounded(f"layers.{i}.{name}")))
        self.layers = nn.ModuleList(layers)
        self.head = Int4Linear([rounded("head")], norm=graph.norm)

    def forward(self, embeds: Tensor, position: Tensor) -> Tensor:
        tokens, start = embeds.shape[0], position[0].item()
        torch._check(start >= 0)
        torch._check(start + tokens <= self.max_context)
        x = embeds
        for layer in self.layers:
            x = layer(x, start, self.rotation)
        return self.head(x.narrow(0, tokens - 1, 1)).reshape(-1)  # only the last position meets the head


def takes(shapes: Sequence[tuple[int, int]]) -> bool:
    """Whether linears of these shapes [O, I] can be the operator's."""
    return all(outputs % CHANNELS == 0 and inputs % GROUP == 0 for outputs, inputs in shapes)
