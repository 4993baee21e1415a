"""`image_encoder`: 16 frames to CLIP patch features.

The eager encoder lowers as it is but for attention: PyTorch's fused operator decomposes into a softmax that guards against
fully masked rows, four passes over the attention matrix that no delegate takes. There is no mask here.
"""

import torch
from torch import Tensor, nn

from export.components.base import Component, Signature
from export.config import FRAMES, IMAGE_SIZE, ModelConfig
from export.manifest import TensorSpec
from export.model.clip import ClipAttention
from export.model.mobile_videogpt import MobileVideoGPT


class ClipAttentionGraph(nn.Module):
    """The eager attention as two batched products around a softmax: [B, T, C] -> [B, T, C]."""

    def __init__(self, attention: ClipAttention):
        super().__init__()
        self.heads = attention.heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        head_dim = width // self.heads

        def split(y: Tensor) -> Tensor:
            y = y.reshape(batch, tokens, self.heads, head_dim).transpose(1, 2)
            return y.reshape(batch * self.heads, tokens, head_dim)  # [B H, T, E]

        q, k, v = split(self.q_proj(x) * head_dim**-0.5), split(self.k_proj(x)), split(self.v_proj(x))
        attention = torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1)  # [B H, T, T]
        y = torch.bmm(attention, v).reshape(batch, self.heads, tokens, head_dim).transpose(1, 2)
        return self.out_proj(y.reshape(batch, tokens, width))


def signature(config: ModelConfig, max_context: int) -> Signature:
    pixels = TensorSpec("pixels", (FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE), "float32", "RGB frames, 0 to 255; padding frames are mean x 255")
    features = TensorSpec("features", (FRAMES, config.clip.patches, config.clip.width), "float32", "CLIP patch features")
    return Signature((pixels,), (features,))


def twin(model: MobileVideoGPT, max_context: int) -> nn.Module:
    for layer in model.image_encoder.layers:
        layer.attention = ClipAttentionGraph(layer.attention)
    return model.image_encoder


COMPONENT = Component("image_encoder", ("image_encoder",), signature, twin)
